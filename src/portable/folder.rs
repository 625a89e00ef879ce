//! The folder that's written: where it may be, and its files' hashes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::PortableError;
use crate::file_names::hex;
use crate::files;
use crate::prepared::{FileDigest, Manifest};

/// Bytes that are hashed at a time.
const PART: usize = 1 << 20;

/// Resolves `folder` to a path whose parent exists. It may be replaced if a portable folder is
/// there, or an empty one, and none of `sources` is inside.
///
/// # Errors
/// If it can't be created, or something else is there.
pub fn place(folder: &Path, sources: &[&Path]) -> Result<PathBuf, PortableError> {
    let failed = |source| PortableError::Write {
        path: folder.to_owned(),
        source,
    };
    let full = std::path::absolute(folder).map_err(failed)?;
    let (Some(parent), Some(name)) = (full.parent(), full.file_name()) else {
        let reason = "the path doesn't end in a name";
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, reason)));
    };
    fs::create_dir_all(parent).map_err(failed)?;
    let place = fs::canonicalize(parent).map_err(failed)?.join(name);
    if place.symlink_metadata().is_ok() {
        let is_empty = fs::read_dir(&place).is_ok_and(|mut entries| entries.next().is_none());
        let is_own = Manifest::read(&place).is_ok_and(|manifest| manifest.portable.is_some());
        if !is_empty && !is_own {
            return Err(PortableError::Occupied { path: place });
        }
        let real = fs::canonicalize(&place).map_err(failed)?;
        for source in sources {
            if fs::canonicalize(source).is_ok_and(|source| source.starts_with(&real)) {
                return Err(PortableError::Source {
                    path: place,
                    inside: (*source).to_owned(),
                });
            }
        }
    }
    Ok(place)
}

/// Sizes and hashes of all files below `folder`, by their paths in it.
///
/// # Errors
/// If one can't be read.
pub fn digests(folder: &Path) -> Result<BTreeMap<String, FileDigest>, PortableError> {
    let mut paths = Vec::new();
    list(folder, &mut paths)?;
    let digests = paths.into_par_iter().map(|path| {
        let name = path.strip_prefix(folder).unwrap_or(&path);
        let name = name.to_string_lossy().into_owned();
        Ok((name, digest(&path)?))
    });
    digests.collect()
}

fn list(folder: &Path, found: &mut Vec<PathBuf>) -> Result<(), PortableError> {
    let failed = |source| PortableError::Read {
        path: folder.to_owned(),
        source,
    };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        match path.is_dir() {
            true => list(&path, found)?,
            false => found.push(path),
        }
    }
    Ok(())
}

/// The size and hash of one file.
///
/// # Errors
/// If it can't be read.
pub fn digest(path: &Path) -> Result<FileDigest, PortableError> {
    let failed = |source| PortableError::Read {
        path: path.to_owned(),
        source,
    };
    let mut file = files::open(path).map_err(failed)?;
    let mut hash = Sha256::new();
    let mut part = vec![0; PART];
    let mut bytes = 0;
    loop {
        let count = file.read(&mut part).map_err(failed)?;
        if count == 0 {
            break;
        }
        hash.update(&part[..count]);
        bytes += count as u64;
    }
    Ok(FileDigest {
        bytes,
        sha256: hex(&hash.finalize()),
    })
}

/// What's wrong with the files of a portable `folder`: missing, of another size, or changed.
///
/// # Errors
/// If a file can't be read.
pub fn damage(
    folder: &Path,
    files: &BTreeMap<String, FileDigest>,
) -> Result<Vec<String>, PortableError> {
    let found = files.par_iter().map(|(name, expected)| {
        let path = folder.join(name);
        let Ok(metadata) = path.metadata() else {
            return Ok(Some(format!("`{name}` is missing")));
        };
        let (bytes, wanted) = (metadata.len(), expected.bytes);
        if bytes != wanted {
            let message = format!("`{name}` has {bytes} bytes, the manifest says {wanted}");
            return Ok(Some(message));
        }
        let found = digest(&path)?;
        let same = found.sha256 == expected.sha256;
        let message = format!("`{name}` was changed: its SHA-256 is not the manifest's");
        Ok((!same).then_some(message))
    });
    let found: Result<Vec<_>, PortableError> = found.collect();
    Ok(found?.into_iter().flatten().collect())
}
