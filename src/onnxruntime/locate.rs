//! Finds an ONNX Runtime library that's installed on this machine.
//!
//! Order of search: `ORT_DYLIB_PATH`, the cache, the active Python environment.

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::library::{self, Library, LibrarySource, LoadError};
use super::pins::{self, OLDEST};
use super::python::Python;
use crate::files::cache_dir::cache_dir;

/// The environment variable that names the library; the crate `ort` reads it too.
pub const LIBRARY_VARIABLE: &str = "ORT_DYLIB_PATH";

/// Why an installed library can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LocateError {
    /// `ORT_DYLIB_PATH` doesn't name a file.
    #[error(
        "`ORT_DYLIB_PATH` is {}, which is not a file; it must be an ONNX Runtime library of \
         version {}.{} or later, or unset",
        path.display(), OLDEST.0, OLDEST.1
    )]
    NoFile {
        /// The variable's value.
        path: PathBuf,
    },
    /// The file isn't an ONNX Runtime library.
    #[error("the ONNX Runtime library of {origin} is unusable")]
    Unusable {
        /// `ORT_DYLIB_PATH`, or the Python environment.
        origin: String,
        /// Why it can't be used.
        source: LoadError,
    },
    /// The library is too old for the C API that this program uses.
    #[error(
        "{} ({origin}) is ONNX Runtime {found}, and {}.{} or later is needed; {remedy}",
        path.display(), OLDEST.0, OLDEST.1
    )]
    TooOld {
        /// The library.
        path: PathBuf,
        /// `ORT_DYLIB_PATH`, or the Python environment.
        origin: String,
        /// The library's version.
        found: String,
        /// What to do.
        remedy: String,
    },
    /// CUDA is requested, but the library of `ORT_DYLIB_PATH` has no CUDA provider.
    #[error(
        "`ORT_DYLIB_PATH` is {}, which has no CUDA provider in its folder \
         (`libonnxruntime_providers_shared.so` and `libonnxruntime_providers_cuda.so`); \
         take the library of `onnxruntime-gpu`, or unset it",
        path.display()
    )]
    NoCuda {
        /// The library.
        path: PathBuf,
    },
}

/// The places to search.
#[derive(Clone, Debug, Default)]
pub struct SearchPlaces {
    /// The value of `ORT_DYLIB_PATH`.
    pub named: Option<PathBuf>,
    /// The cache folder.
    pub cache: PathBuf,
    /// The Python installations to search.
    pub python: Python,
}

/// Finds a library, with the CUDA provider if `want_cuda`; `None` if there's none.
///
/// # Errors
/// If `ORT_DYLIB_PATH` is set but its library can't be used, or if the only library is an unusable
/// one in the Python environment.
pub fn locate(want_cuda: bool) -> Result<Option<Library>, LocateError> {
    SearchPlaces::from_environment().locate(want_cuda)
}

impl SearchPlaces {
    /// The places according to this process' environment variables.
    pub fn from_environment() -> SearchPlaces {
        SearchPlaces {
            named: std::env::var_os(LIBRARY_VARIABLE)
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
            cache: cache_dir(),
            python: Python::from_environment(),
        }
    }

    /// Searches as [`locate`] does, in these places.
    ///
    /// # Errors
    /// As [`locate`].
    pub fn locate(&self, want_cuda: bool) -> Result<Option<Library>, LocateError> {
        if let Some(path) = &self.named {
            return named(path, want_cuda).map(Some);
        }
        match in_cache(&self.cache, want_cuda) {
            Some(library) => Ok(Some(library)),
            None => in_python(&self.python, want_cuda),
        }
    }
}

/// The library that the user names. It's loaded here, to find out whether it can be.
fn named(path: &Path, want_cuda: bool) -> Result<Library, LocateError> {
    if !path.is_file() {
        return Err(LocateError::NoFile { path: path.into() });
    }
    // The loader would search its own folders for a bare file name.
    let path = &std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let origin = format!("`{LIBRARY_VARIABLE}`");
    let version = library::loaded_version(path).map_err(|source| LocateError::Unusable {
        origin: origin.clone(),
        source,
    })?;
    let remedy = "name a newer one, or unset the variable";
    check_version(path, &version, &origin, remedy)?;

    let library = Library::new(path, version, LibrarySource::Environment);
    if want_cuda && !library.has_cuda {
        return Err(LocateError::NoCuda { path: library.path });
    }
    Ok(library)
}

/// The pinned version in the cache. Without `want_cuda`, the library with CUDA is the second
/// choice.
pub(crate) fn in_cache(cache: &Path, want_cuda: bool) -> Option<Library> {
    let kinds: &[bool] = if want_cuda { &[true] } else { &[false, true] };
    kinds.iter().find_map(|&cuda| {
        let path = library::find_in(&pins::installed_folder(cache, cuda))?;
        let library = Library::new(&path, pins::VERSION.to_owned(), LibrarySource::Cache);
        (library.has_cuda || !cuda).then_some(library)
    })
}

fn in_python(python: &Python, want_cuda: bool) -> Result<Option<Library>, LocateError> {
    let mut first_error = None;
    for site_packages in python.site_packages() {
        match in_site_packages(&site_packages) {
            Ok(Some(library)) if library.has_cuda || !want_cuda => return Ok(Some(library)),
            Ok(_) => {}
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    first_error.map_or(Ok(None), Err)
}

fn in_site_packages(site_packages: &Path) -> Result<Option<Library>, LocateError> {
    let Some(path) = library::find_in(&site_packages.join("onnxruntime/capi")) else {
        return Ok(None);
    };
    let origin = "the active Python environment";
    let version = library::version_of(&path).map_err(|source| LocateError::Unusable {
        origin: origin.to_owned(),
        source,
    })?;
    let remedy = "`pip install --upgrade onnxruntime` there, or `peft-bench runtime install`";
    check_version(&path, &version, origin, remedy)?;
    let source = LibrarySource::PythonEnvironment(site_packages.to_path_buf());
    Ok(Some(Library::new(&path, version, source)))
}

fn check_version(path: &Path, found: &str, origin: &str, remedy: &str) -> Result<(), LocateError> {
    if library::major_minor(found).is_some_and(|version| version >= OLDEST) {
        return Ok(());
    }
    Err(LocateError::TooOld {
        path: path.to_path_buf(),
        origin: origin.to_owned(),
        found: found.to_owned(),
        remedy: remedy.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }

    /// Places below `root`, with an active environment that has this version of `onnxruntime`.
    fn places(root: &Path, python_version: &str) -> SearchPlaces {
        write(&capi(root).join(format!("libonnxruntime.so.{python_version}")));
        SearchPlaces {
            named: None,
            cache: root.join("cache"),
            python: Python {
                environments: vec![root.join("env")],
                interpreters: vec![],
            },
        }
    }

    fn capi(root: &Path) -> PathBuf {
        root.join("env/lib/python3.12/site-packages/onnxruntime/capi")
    }

    fn fill_cache(root: &Path, cuda: bool) -> PathBuf {
        let folder = pins::installed_folder(&root.join("cache"), cuda);
        let library = folder.join("libonnxruntime.so.1.31.1");
        write(&library);
        if cuda {
            write(&folder.join("libonnxruntime_providers_shared.so"));
            write(&folder.join("libonnxruntime_providers_cuda.so"));
        }
        library
    }

    #[test]
    fn the_cache_comes_before_the_python_environment() {
        let root = tempfile::tempdir().unwrap();
        let places = places(root.path(), "1.32.0");
        let path = fill_cache(root.path(), false);
        let library = places.locate(false).unwrap().unwrap();
        assert_eq!((library.source, library.path), (LibrarySource::Cache, path));
    }

    #[test]
    fn a_new_enough_python_package_is_used() {
        let root = tempfile::tempdir().unwrap();
        let library = places(root.path(), "1.32.0")
            .locate(false)
            .unwrap()
            .unwrap();
        let site_packages = root.path().join("env/lib/python3.12/site-packages");
        assert_eq!(library.version, "1.32.0");
        assert_eq!(
            library.source,
            LibrarySource::PythonEnvironment(site_packages)
        );
    }

    #[test]
    fn an_old_python_package_is_named_with_both_versions() {
        let root = tempfile::tempdir().unwrap();
        let error = places(root.path(), "1.20.1").locate(false).unwrap_err();
        let library = capi(root.path()).join("libonnxruntime.so.1.20.1");
        assert_eq!(
            error.to_string(),
            format!(
                "{} (the active Python environment) is ONNX Runtime 1.20.1, and 1.31 or later is \
                 needed; `pip install --upgrade onnxruntime` there, or `peft-bench runtime install`",
                library.display()
            )
        );
    }

    #[test]
    fn an_old_python_package_does_not_hide_the_cache() {
        let root = tempfile::tempdir().unwrap();
        let places = places(root.path(), "1.20.1");
        fill_cache(root.path(), false);
        assert!(places.locate(false).unwrap().is_some());
    }

    #[test]
    fn a_library_without_cuda_is_not_found_where_cuda_is_wanted() {
        let root = tempfile::tempdir().unwrap();
        let places = places(root.path(), "1.31.1");
        fill_cache(root.path(), false);
        assert_eq!(places.locate(true).unwrap(), None);

        let path = fill_cache(root.path(), true);
        let library = places.locate(true).unwrap().unwrap();
        assert!(library.has_cuda);
        assert_eq!(library.path, path);
    }

    #[test]
    fn the_cached_library_with_cuda_is_used_without_cuda_too() {
        let root = tempfile::tempdir().unwrap();
        let path = fill_cache(root.path(), true);
        let library = in_cache(&root.path().join("cache"), false).unwrap();
        assert_eq!(library.path, path);
    }

    #[test]
    fn a_cached_folder_that_lost_its_provider_is_not_cuda() {
        let root = tempfile::tempdir().unwrap();
        let library = fill_cache(root.path(), true);
        std::fs::remove_file(library.with_file_name("libonnxruntime_providers_cuda.so")).unwrap();
        assert_eq!(in_cache(&root.path().join("cache"), true), None);
    }

    #[test]
    fn a_wrong_variable_is_an_error_even_if_another_library_exists() {
        let root = tempfile::tempdir().unwrap();
        let places = SearchPlaces {
            named: Some("/no/such/libonnxruntime.so".into()),
            ..places(root.path(), "1.31.1")
        };
        assert_eq!(
            places.locate(false).unwrap_err().to_string(),
            "`ORT_DYLIB_PATH` is /no/such/libonnxruntime.so, which is not a file; it must be an \
             ONNX Runtime library of version 1.31 or later, or unset"
        );
    }

    #[test]
    fn a_named_library_is_loaded_whatever_its_file_name() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("libonnxruntime.so.1.31.1");
        write(&path);
        let places = SearchPlaces {
            named: Some(path),
            ..SearchPlaces::default()
        };
        let error = places.locate(false).unwrap_err();
        assert!(matches!(error, LocateError::Unusable { .. }), "{error}");
    }

    #[test]
    fn empty_places_have_no_library() {
        let root = tempfile::tempdir().unwrap();
        let places = SearchPlaces {
            cache: root.path().into(),
            ..SearchPlaces::default()
        };
        assert_eq!(places.locate(false).unwrap(), None);
    }
}
