//! A file that is being downloaded, `blobs/<etag>.incomplete`. It's renamed when it's complete and
//! has the size and the hash that the hub has announced.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::remote::Description;

/// Bytes that are taken of a file whose size wasn't announced. Weights have theirs announced.
const MOST_UNANNOUNCED: u64 = 1 << 30;

pub(super) struct Incomplete<'a> {
    expected: &'a Description,
    path: PathBuf,
    file: File,
    length: u64,
    /// Hashes what is written, if the hub says the whole file's hash.
    hasher: Option<Sha256>,
}

/// How what has arrived differs from what the hub has announced.
pub(super) struct Mismatch {
    pub(super) found: String,
    pub(super) expected: String,
}

impl<'a> Incomplete<'a> {
    /// Continues the file of an earlier download, if the hub says the whole file's hash: only that
    /// tells whether both parts belong together. Else starts an empty file.
    pub(super) fn open(path: PathBuf, expected: &'a Description) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)?;
        let mut incomplete = Incomplete {
            expected,
            path,
            file,
            length: 0,
            hasher: expected.sha256().map(|_| Sha256::new()),
        };
        incomplete.hash_or_remove_existing()?;
        Ok(incomplete)
    }

    /// Hashes the bytes of an earlier download, or removes them.
    fn hash_or_remove_existing(&mut self) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        let is_part = self.expected.size_bytes.is_some_and(|size| length <= size);
        let Some(hasher) = self.hasher.as_mut().filter(|_| is_part) else {
            return self.restart();
        };
        let mut piece = vec![0; 1 << 20];
        loop {
            match self.file.read(&mut piece)? {
                0 => break,
                count => {
                    hasher.update(&piece[..count]);
                    self.length += count as u64;
                }
            }
        }
        Ok(())
    }

    /// Starts again with nothing.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.length = 0;
        self.hasher = self.expected.sha256().map(|_| Sha256::new());
        Ok(())
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Whether nothing is left to be received.
    pub(super) fn has_all(&self) -> bool {
        self.expected.size_bytes == Some(self.length)
    }

    /// Whether more than the whole has been received.
    pub(super) fn has_too_much(&self) -> bool {
        self.length > self.expected.size_bytes.unwrap_or(MOST_UNANNOUNCED)
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Renames the file to `blob`, or removes it if it isn't what was announced.
    pub(super) fn finish(mut self, blob: &Path) -> io::Result<Option<Mismatch>> {
        let mismatch = self.mismatch();
        match mismatch {
            None => fs::rename(&self.path, blob)?,
            Some(_) => fs::remove_file(&self.path)?,
        }
        Ok(mismatch)
    }

    fn mismatch(&mut self) -> Option<Mismatch> {
        let expected = match self.expected.size_bytes {
            Some(size) if self.length != size => Some(format!("{size} bytes")),
            None if self.has_too_much() => Some("their number in a header".to_owned()),
            _ => None,
        };
        if let Some(expected) = expected {
            return Some(Mismatch {
                found: format!("{} bytes", self.length),
                expected,
            });
        }
        let expected = self.expected.sha256()?;
        let hash = self.hasher.take()?.finalize();
        let found: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        (!found.eq_ignore_ascii_case(expected)).then(|| Mismatch {
            found: format!("SHA-256 `{found}`"),
            expected: format!("`{expected}`"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_unannounced_size_that_has_no_end_is_given_up_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.incomplete");
        let expected = Description {
            etag: "a".to_owned(),
            size_bytes: None,
        };
        let mut incomplete = Incomplete::open(path.clone(), &expected).unwrap();
        incomplete.write(b"{}").unwrap();
        assert!(!incomplete.has_too_much());
        incomplete.length = MOST_UNANNOUNCED + 1;
        assert!(incomplete.has_too_much());
        let blob = folder.path().join("a");
        assert!(incomplete.finish(&blob).unwrap().is_some());
        assert!(!path.exists() && !blob.exists());
    }
}
