//! An ONNX Runtime library on disk: its version, and whether CUDA's provider is with it.

use std::ffi::{CStr, c_char, c_void};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The two libraries that ONNX Runtime loads for CUDA, from its own folder.
const CUDA_PROVIDER: [&str; 2] = [
    "libonnxruntime_providers_shared.so",
    "libonnxruntime_providers_cuda.so",
];

/// Where a library comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LibrarySource {
    /// The environment variable `ORT_DYLIB_PATH`.
    Environment,
    /// The project's cache.
    Cache,
    /// An installed Python package, in this site-packages folder.
    PythonEnvironment(PathBuf),
    /// It has just been downloaded into the cache.
    Downloaded,
}

/// An ONNX Runtime library that can be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Library {
    /// The shared library, as an absolute path.
    pub path: PathBuf,
    /// The version, from the library itself or from its file name: `1.31.1`.
    pub version: String,
    /// Where it comes from.
    pub source: LibrarySource,
    /// Whether the CUDA provider is in the same folder. Libraries that the provider needs may still
    /// be missing.
    pub has_cuda: bool,
}

impl Library {
    /// Describes the library at `path`, which is made absolute.
    pub(crate) fn new(path: &Path, version: String, source: LibrarySource) -> Library {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        let has_cuda = CUDA_PROVIDER
            .iter()
            .all(|name| path.with_file_name(name).is_file());
        Library {
            path,
            version,
            source,
            has_cuda,
        }
    }
}

/// Why a file isn't an ONNX Runtime library.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The platform's loader can't load it.
    #[error("cannot load {}", path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// The loader's error.
        source: libloading::Error,
    },
    /// It's a shared library, but not ONNX Runtime.
    #[error("{} is no ONNX Runtime library: it has no `OrtGetApiBase`", path.display())]
    NotOnnxRuntime {
        /// The file.
        path: PathBuf,
        /// The loader's error.
        source: libloading::Error,
    },
}

/// The newest `libonnxruntime` in `folder`, by file name; a name without a version counts as the
/// oldest.
pub(crate) fn find_in(folder: &Path) -> Option<PathBuf> {
    let candidates = folder.read_dir().ok()?.flatten().filter_map(|entry| {
        let name = entry.file_name();
        let name = name.to_str()?;
        let unversioned = name == "libonnxruntime.so" || name == "libonnxruntime.dylib";
        let version = version_in(name);
        (unversioned || version.is_some()).then(|| (version.map(numbers), entry.path()))
    });
    candidates.max().map(|(_, path)| path)
}

/// The version of the library `path`: from the name of the file that it links to, else by loading
/// it.
///
/// # Errors
/// If the name has no version and the file can't be loaded or isn't ONNX Runtime.
pub(crate) fn version_of(path: &Path) -> Result<String, LoadError> {
    let real = path.canonicalize();
    let name = real.as_deref().unwrap_or(path).file_name();
    match name.and_then(|name| version_in(name.to_str()?)) {
        Some(version) => Ok(version.to_owned()),
        None => loaded_version(path),
    }
}

/// Extracts `1.31.1` from `libonnxruntime.so.1.31.1` or `libonnxruntime.1.31.1.dylib`.
fn version_in(file_name: &str) -> Option<&str> {
    let version = file_name.strip_prefix("libonnxruntime.").and_then(|rest| {
        rest.strip_prefix("so.")
            .or_else(|| rest.strip_suffix(".dylib"))
    })?;
    (numbers(version).len() >= 2).then_some(version)
}

/// The numbers in `1.31.1`, up to the first component that isn't a number.
fn numbers(version: &str) -> Vec<u32> {
    version
        .split('.')
        .map_while(|part| part.parse().ok())
        .collect()
}

/// The major and minor number of a version such as `1.31.1`.
pub(crate) fn major_minor(version: &str) -> Option<(u32, u32)> {
    match numbers(version)[..] {
        [major, minor, ..] => Some((major, minor)),
        _ => None,
    }
}

/// `OrtApiBase` of `onnxruntime_c_api.h`.
#[repr(C)]
struct OrtApiBase {
    get_api: unsafe extern "C" fn(u32) -> *const c_void,
    get_version_string: unsafe extern "C" fn() -> *const c_char,
}

/// Loads the library and asks it for its version. It stays loaded.
///
/// # Errors
/// If the file can't be loaded or isn't ONNX Runtime.
#[expect(unsafe_code, reason = "a shared library is loaded and called")]
pub(crate) fn loaded_version(path: &Path) -> Result<String, LoadError> {
    type GetApiBase = unsafe extern "C" fn() -> *const OrtApiBase;

    // SAFETY: the user chose this library; its initializers run, as they will when it's used.
    let library = unsafe { libloading::Library::new(path) }.map_err(|source| LoadError::Load {
        path: path.to_path_buf(),
        source,
    })?;
    // SAFETY: this is the symbol's type in `onnxruntime_c_api.h`, in every version.
    let version = unsafe {
        let get_api_base = library
            .get::<GetApiBase>(b"OrtGetApiBase\0")
            .map_err(|source| LoadError::NotOnnxRuntime {
                path: path.to_path_buf(),
                source,
            })?;
        let base = get_api_base();
        CStr::from_ptr(((*base).get_version_string)())
            .to_string_lossy()
            .into_owned()
    };
    // ONNX Runtime has threads and statics, and can't be unloaded safely.
    std::mem::forget(library);
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_in_the_file_names_of_both_platforms() {
        assert_eq!(version_in("libonnxruntime.so.1.31.1"), Some("1.31.1"));
        assert_eq!(version_in("libonnxruntime.1.31.1.dylib"), Some("1.31.1"));
    }

    #[test]
    fn a_bare_major_number_is_no_version() {
        assert_eq!(version_in("libonnxruntime.so.1"), None);
        assert_eq!(version_in("libonnxruntime.so"), None);
        assert_eq!(version_in("libonnxruntime_providers_shared.so"), None);
    }

    #[test]
    fn the_newest_library_of_a_folder_is_found_by_numeric_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "libonnxruntime.so.1.9.0",
            "libonnxruntime.so.1.31.1",
            "libonnxruntime.so",
            "libonnxruntime_providers_cuda.so",
            "onnxruntime_pybind11_state.so",
        ] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let newest = folder.path().join("libonnxruntime.so.1.31.1");
        assert_eq!(find_in(folder.path()), Some(newest));
    }

    #[test]
    fn a_folder_without_the_library_has_none() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(find_in(folder.path()), None);
        assert_eq!(find_in(&folder.path().join("absent")), None);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_has_the_version_of_its_target() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().join("libonnxruntime.so.1.31.1");
        std::fs::write(&real, "").unwrap();
        let link = folder.path().join("libonnxruntime.so");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert_eq!(version_of(&link).unwrap(), "1.31.1");
    }

    #[test]
    fn a_file_that_is_no_library_cannot_be_asked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("libonnxruntime.so");
        std::fs::write(&path, "text").unwrap();
        assert!(matches!(version_of(&path), Err(LoadError::Load { .. })));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn another_library_is_recognized_as_such() {
        let error = loaded_version(Path::new("libc.so.6")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "libc.so.6 is no ONNX Runtime library: it has no `OrtGetApiBase`"
        );
    }

    #[test]
    fn the_cuda_provider_counts_only_with_both_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("libonnxruntime.so.1.31.1");
        let has_cuda = || Library::new(&path, "1.31.1".into(), LibrarySource::Cache).has_cuda;
        std::fs::write(folder.path().join(CUDA_PROVIDER[1]), "").unwrap();
        assert!(!has_cuda());
        std::fs::write(folder.path().join(CUDA_PROVIDER[0]), "").unwrap();
        assert!(has_cuda());
    }
}
