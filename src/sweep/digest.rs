//! Digests of what a job's result depends on. They hold on every node: no path, no time and no
//! host is in them.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::file_names::hex;
use crate::files::cache_dir::cache_dir;
use crate::files::{self, write_file};

/// Smaller files are read each time.
const LARGE: u64 = 4 << 20;

/// SHA-256 of files. Those of large files are kept in the cache folder, with size, time and inode
/// of the file that they are of.
#[derive(Debug, Default)]
pub struct Digests {
    known: BTreeMap<PathBuf, Known>,
    changed: bool,
}

/// What a file was like when it was read, and its digest.
type Known = (u64, i64, i64, u64, String);

impl Digests {
    /// With what earlier programs found out. A cache that can't be read is an empty one.
    pub fn open() -> Self {
        let text = fs::read(place()).ok();
        let known = text.and_then(|text| serde_json::from_slice(&text).ok());
        Self {
            known: known.unwrap_or_default(),
            changed: false,
        }
    }

    /// Keeps what was found out. It's no fault if that fails: files are read again.
    pub fn keep(&self) {
        let place = place();
        if let (true, Some(folder), Ok(text)) = (
            self.changed,
            place.parent(),
            serde_json::to_vec(&self.known),
        ) {
            let _ = fs::create_dir_all(folder).and_then(|()| write_file(&place, &text));
        }
    }

    /// The digest of the file at `path`.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn of_file(&mut self, path: &Path) -> io::Result<String> {
        let path = fs::canonicalize(path)?;
        let metadata = fs::metadata(&path)?;
        if metadata.len() < LARGE {
            return of_content(&path);
        }
        let is_same = |known: &&Known| {
            let (size, seconds, nanoseconds, inode, _) = known;
            (*size, *seconds, *nanoseconds, *inode) == looks(&metadata)
        };
        if let Some(known) = self.known.get(&path).filter(is_same) {
            return Ok(known.4.clone());
        }
        let digest = of_content(&path)?;
        let (size, seconds, nanoseconds, inode) = looks(&metadata);
        let known = (size, seconds, nanoseconds, inode, digest.clone());
        self.known.insert(path, known);
        self.changed = true;
        Ok(digest)
    }
}

fn looks(metadata: &Metadata) -> (u64, i64, i64, u64) {
    let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
    (metadata.len(), seconds, nanoseconds, metadata.ino())
}

fn place() -> PathBuf {
    cache_dir().join("sweep").join("digests.json")
}

fn of_content(path: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut files::open(path)?, &mut Hashing(&mut hash))?;
    Ok(hex(&hash.finalize()))
}

struct Hashing<'a>(&'a mut Sha256);

impl io::Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// SHA-256 of `value`, whatever the order of its keys.
pub fn of_json(value: &Value) -> String {
    hex(&Sha256::digest(sorted(value).to_string().as_bytes()))
}

/// `value` with all keys in order.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let ordered: BTreeMap<&String, &Value> = object.iter().collect();
            let pairs = ordered.into_iter();
            let pairs = pairs.map(|(key, value)| (key.clone(), sorted(value)));
            Value::Object(pairs.collect::<Map<_, _>>())
        }
        Value::Array(values) => values.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_order_of_keys_makes_no_difference_and_values_do() {
        let one = json!({"a": 1, "b": [{"c": 2, "d": 3}]});
        let other = json!({"b": [{"d": 3, "c": 2}], "a": 1});
        assert_eq!(of_json(&one), of_json(&other));
        assert_ne!(
            of_json(&one),
            of_json(&json!({"a": 1, "b": [{"c": 3, "d": 2}]}))
        );
    }

    #[test]
    fn a_large_file_is_read_again_once_it_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        fs::write(&path, vec![1; LARGE as usize]).unwrap();
        let mut digests = Digests::default();
        let first = digests.of_file(&path).unwrap();
        assert_eq!(digests.of_file(&path).unwrap(), first);
        assert_eq!(digests.known.len(), 1);
        fs::write(&path, vec![2; LARGE as usize + 1]).unwrap();
        assert_ne!(digests.of_file(&path).unwrap(), first);
    }
}
