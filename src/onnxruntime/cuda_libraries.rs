//! Loads the CUDA libraries that ONNX Runtime's CUDA provider needs, before it's loaded.
//!
//! The provider has no search path of its own. It accepts a library that's already loaded under its
//! soname, so the libraries in Python packages (`nvidia-*`, which PyTorch depends on) can be used
//! without `LD_LIBRARY_PATH`. `onnxruntime.preload_dlls` does the same in Python.
//!
//! The list is for `onnxruntime-gpu` 1.31, built with CUDA 13: the `NEEDED` entries of
//! `libonnxruntime_providers_cuda.so`, and what it or cuDNN loads later.

use std::cell::LazyCell;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::python::Python;

/// System folders that may contain CUDA or, in WSL, its driver.
const SYSTEM_FOLDERS: [&str; 2] = ["/usr/local/cuda/lib64", "/usr/lib/wsl/lib"];

struct CudaLibrary {
    /// The soname.
    name: &'static str,
    /// What to install to get it.
    origin: &'static str,
    /// Whether the provider needs it to be loaded.
    needed: bool,
}

const fn needed(name: &'static str, origin: &'static str) -> CudaLibrary {
    CudaLibrary {
        name,
        origin,
        needed: true,
    }
}

const fn optional(name: &'static str, origin: &'static str) -> CudaLibrary {
    CudaLibrary {
        name,
        origin,
        needed: false,
    }
}

/// Ordered so that each library comes after those that it depends on.
const LIBRARIES: [CudaLibrary; 8] = [
    needed("libcuda.so.1", "the NVIDIA driver"),
    needed("libcudart.so.13", "`pip install nvidia-cuda-runtime`"),
    needed("libcublasLt.so.13", "`pip install nvidia-cublas`"),
    needed("libcublas.so.13", "`pip install nvidia-cublas`"),
    needed("libcurand.so.10", "`pip install nvidia-curand`"),
    optional("libnvrtc.so.13", "`pip install nvidia-cuda-nvrtc`"),
    optional("libcufft.so.12", "`pip install nvidia-cufft`"),
    optional("libcudnn.so.9", "`pip install nvidia-cudnn-cu13`"),
];

/// The result of preloading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preloaded {
    /// Loaded libraries, in order. A bare file name means that the loader found it by itself.
    pub loaded: Vec<PathBuf>,
    /// Sonames of libraries that couldn't be loaded.
    pub missing: Vec<&'static str>,
    /// The loader's messages for files that exist but can't be loaded.
    pub refused: Vec<String>,
}

impl Preloaded {
    /// Whether all libraries that the provider needs are loaded.
    pub fn provider_can_load(&self) -> bool {
        self.missing_libraries().all(|library| !library.needed)
    }

    /// Names the missing libraries that the provider needs, and how to get them; `None` if there
    /// are none.
    pub fn advice(&self) -> Option<String> {
        let missing: Vec<String> = self
            .missing_libraries()
            .filter(|library| library.needed)
            .map(|library| format!("`{}` ({})", library.name, library.origin))
            .collect();
        if missing.is_empty() {
            return None;
        }
        let mut advice = format!("the CUDA provider needs {}", missing.join(", "));
        for refusal in &self.refused {
            advice.push_str("; ");
            advice.push_str(refusal);
        }
        Some(advice)
    }

    fn missing_libraries(&self) -> impl Iterator<Item = &'static CudaLibrary> {
        LIBRARIES
            .iter()
            .filter(|library| self.missing.contains(&library.name))
    }
}

/// Loads the CUDA libraries permanently, with global symbols.
///
/// Each is loaded from where the loader finds it by itself, else from the first of these folders
/// that has it: `nvidia/*/lib` of the active Python environment, CUDA's usual folder. This is done
/// once per process, since the search may start Python.
pub fn preload() -> &'static Preloaded {
    static PRELOADED: OnceLock<Preloaded> = OnceLock::new();
    let folders = || {
        let python = Python::from_environment().site_packages();
        let nvidia = python.iter().flat_map(|site| nvidia_folders(site));
        nvidia.chain(SYSTEM_FOLDERS.map(PathBuf::from)).collect()
    };
    PRELOADED.get_or_init(|| preload_from(folders, &open_globally))
}

/// Loads with `open`, which returns the reason if it fails. `folders` is only called if the loader
/// doesn't find a library by itself.
fn preload_from(
    folders: impl FnOnce() -> Vec<PathBuf>,
    open: &dyn Fn(&Path) -> Result<(), String>,
) -> Preloaded {
    let folders = LazyCell::new(folders);
    let mut result = Preloaded::default();
    for library in &LIBRARIES {
        let name = Path::new(library.name);
        if open(name).is_ok() {
            result.loaded.push(name.to_path_buf());
            continue;
        }
        let files = folders.iter().map(|folder| folder.join(name));
        let found = files.filter(|path| path.is_file()).find(|path| {
            open(path)
                .map_err(|refusal| result.refused.push(refusal))
                .is_ok()
        });
        match found {
            Some(path) => result.loaded.push(path),
            None => result.missing.push(library.name),
        }
    }
    result
}

/// The folders `nvidia/*/lib` of a site-packages folder: `nvidia/cu13/lib`, `nvidia/cudnn/lib`, or
/// one for each package, as before CUDA 13.
fn nvidia_folders(site_packages: &Path) -> Vec<PathBuf> {
    let entries = site_packages.join("nvidia").read_dir();
    let mut folders: Vec<PathBuf> = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("lib"))
        .filter(|folder| folder.is_dir())
        .collect();
    folders.sort();
    folders
}

#[cfg(unix)]
#[expect(unsafe_code, reason = "a shared library is loaded")]
fn open_globally(path: &Path) -> Result<(), String> {
    use std::error::Error;

    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LAZY};

    // SAFETY: these are NVIDIA's libraries, whose initializers have no preconditions; the provider
    // would run them itself.
    let library =
        unsafe { Library::open(Some(path), RTLD_LAZY | RTLD_GLOBAL) }.map_err(|error| {
            // The loader's message is in the source; the error itself only says that it failed.
            error
                .source()
                .map_or_else(|| error.to_string(), ToString::to_string)
        })?;
    // It must stay loaded for the provider to find it.
    std::mem::forget(library);
    Ok(())
}

#[cfg(not(unix))]
fn open_globally(path: &Path) -> Result<(), String> {
    Err(format!("{} is not for this platform", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only_files(path: &Path) -> Result<(), String> {
        match path.is_absolute() {
            true => Ok(()),
            false => Err(format!("{}: not found", path.display())),
        }
    }

    #[test]
    fn folders_are_not_searched_if_the_loader_finds_everything() {
        let folders = || panic!("the folders are not needed");
        let preloaded = preload_from(folders, &|_| Ok(()));
        assert_eq!(preloaded.loaded.len(), LIBRARIES.len());
        assert!(preloaded.provider_can_load());
        assert_eq!(preloaded.advice(), None);
    }

    #[test]
    fn both_layouts_of_the_python_packages_are_searched() {
        let site = tempfile::tempdir().unwrap();
        let old = site.path().join("nvidia/curand/lib/libcurand.so.10");
        let new = site.path().join("nvidia/cu13/lib/libcublas.so.13");
        for path in [&old, &new] {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let preloaded = preload_from(|| nvidia_folders(site.path()), &only_files);
        assert_eq!(preloaded.loaded, [new, old]);
        assert_eq!(
            preloaded.missing,
            [
                "libcuda.so.1",
                "libcudart.so.13",
                "libcublasLt.so.13",
                "libnvrtc.so.13",
                "libcufft.so.12",
                "libcudnn.so.9"
            ]
        );
    }

    #[test]
    fn the_advice_names_what_is_needed_and_what_brings_it() {
        let preloaded = Preloaded {
            missing: vec!["libcuda.so.1", "libcurand.so.10", "libcudnn.so.9"],
            ..Preloaded::default()
        };
        assert!(!preloaded.provider_can_load());
        assert_eq!(
            preloaded.advice().unwrap(),
            "the CUDA provider needs `libcuda.so.1` (the NVIDIA driver), `libcurand.so.10` (`pip \
             install nvidia-curand`)"
        );
    }

    #[test]
    fn the_provider_can_load_without_cudnn() {
        let preloaded = Preloaded {
            missing: vec!["libcudnn.so.9", "libcufft.so.12"],
            ..Preloaded::default()
        };
        assert!(preloaded.provider_can_load());
    }

    #[test]
    fn a_file_that_cannot_be_loaded_is_skipped_and_reported() {
        let folder = tempfile::tempdir().unwrap();
        let (bad, good) = (folder.path().join("bad"), folder.path().join("good"));
        for folder in [&bad, &good] {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join("libcurand.so.10"), "").unwrap();
        }
        let open = |path: &Path| match path.starts_with(&good) {
            true => Ok(()),
            false => Err(format!("{}: file too short", path.display())),
        };
        let preloaded = preload_from(|| vec![bad.clone(), good.clone()], &open);
        assert_eq!(preloaded.loaded, [good.join("libcurand.so.10")]);
        let refusal = format!("{}: file too short", bad.join("libcurand.so.10").display());
        assert_eq!(preloaded.refused, [refusal]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_platforms_loader_opens_libraries_and_explains_what_it_cannot_open() {
        open_globally(Path::new("libc.so.6")).unwrap();
        let error = open_globally(Path::new("libno-such-library.so.0")).unwrap_err();
        assert!(error.contains("libno-such-library.so.0"), "{error}");
    }
}
