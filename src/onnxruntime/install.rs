//! Downloads ONNX Runtime's libraries into the project's cache.
//!
//! pip downloads the pinned wheel; only its libraries are kept. One process at a time installs, and
//! the folder is renamed into the cache once it's complete.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::library::{Library, LibrarySource};
use super::locate::{self, LocateError, SearchPlaces};
use super::pins::{self, OLDEST, Pin};
use super::pip::{self, PipError};
use super::wheel::{self, WheelError};
use crate::files::cache_dir::cache_dir;
use crate::onnxruntime::python::Python;

/// Progress of an installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InstallEvent {
    /// An existing library can't be used, so another is downloaded.
    PassedOver {
        /// Why it can't be used.
        reason: String,
    },
    /// Another process is installing; this one waits for it.
    Waiting,
    /// The wheel is being downloaded.
    Downloading {
        /// Bytes received so far.
        bytes: u64,
        /// The wheel's size in bytes.
        total_bytes: u64,
    },
    /// The wheel's hash is being computed.
    Verifying,
    /// The libraries are being written.
    Unpacking,
}

/// Why ONNX Runtime can't be installed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum InstallError {
    /// There's no wheel for the platform.
    #[error(
        "there is no ONNX Runtime {}{} for {os} on {arch} to download; {}",
        pins::VERSION, if *cuda { " with CUDA" } else { "" }, alternatives(*cuda)
    )]
    UnsupportedPlatform {
        /// The operating system, as in `std::env::consts::OS`.
        os: String,
        /// The processor architecture, as in `std::env::consts::ARCH`.
        arch: String,
        /// Whether CUDA was requested.
        cuda: bool,
    },
    /// The wheel can't be downloaded.
    #[error("cannot download ONNX Runtime ({})", alternatives(*cuda))]
    Download {
        /// Whether CUDA was requested.
        cuda: bool,
        /// The cause.
        source: PipError,
    },
    /// The wheel isn't the pinned one, or can't be unpacked.
    #[error("cannot use the wheel that was downloaded ({})", alternatives(*cuda))]
    Wheel {
        /// Whether CUDA was requested.
        cuda: bool,
        /// The cause.
        source: WheelError,
    },
    /// The cache can't be written.
    #[error(
        "cannot write {}; `PEFT_BENCH_CACHE` can name another cache folder", path.display()
    )]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// Ways to get the library without the download.
fn alternatives(cuda: bool) -> String {
    format!(
        "without the download: `pip install onnxruntime{}` in the active Python environment, or \
         set `ORT_DYLIB_PATH` to an ONNX Runtime library of version {}.{} or later",
        if cuda { "-gpu" } else { "" },
        OLDEST.0,
        OLDEST.1
    )
}

/// Why no library could be found or installed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// A library was found but can't be used.
    #[error(transparent)]
    Locate(#[from] LocateError),
    /// None was found, and the installation failed.
    #[error(transparent)]
    Install(#[from] InstallError),
}

/// Finds a library, or installs one.
///
/// An unusable library in the Python environment isn't an error: the user didn't choose it for this
/// program.
///
/// # Errors
/// If `ORT_DYLIB_PATH` is set and can't be used, or if the installation fails.
pub fn locate_or_install(
    want_cuda: bool,
    progress: &dyn Fn(InstallEvent),
) -> Result<Library, RuntimeError> {
    let places = SearchPlaces::from_environment();
    match places.locate(want_cuda) {
        Ok(Some(library)) => return Ok(library),
        Ok(None) => {}
        Err(error) if places.named.is_some() => return Err(error.into()),
        Err(error) => progress(InstallEvent::PassedOver {
            reason: error.to_string(),
        }),
    }
    Ok(Installer::from(places).install(want_cuda, progress)?)
}

/// Installs the pinned version into the cache, unless it's there already.
///
/// # Errors
/// If there's no wheel for this platform, pip can't download it, its hash differs, or the cache
/// can't be written.
pub fn install(cuda: bool, progress: &dyn Fn(InstallEvent)) -> Result<Library, InstallError> {
    let installer = Installer {
        cache: cache_dir(),
        interpreters: Python::from_environment().interpreters,
    };
    installer.install(cuda, progress)
}

/// The environment of an installation.
#[derive(Clone, Debug)]
pub struct Installer {
    /// The cache folder; it's created if it doesn't exist.
    pub cache: PathBuf,
    /// The Python interpreters to try, in order.
    pub interpreters: Vec<PathBuf>,
}

impl From<SearchPlaces> for Installer {
    fn from(places: SearchPlaces) -> Installer {
        Installer {
            cache: places.cache,
            interpreters: places.python.interpreters,
        }
    }
}

impl Installer {
    /// Installs as [`install`] does, in this environment.
    ///
    /// # Errors
    /// As [`install`].
    pub fn install(
        &self,
        cuda: bool,
        progress: &dyn Fn(InstallEvent),
    ) -> Result<Library, InstallError> {
        let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
        let pin = pins::pin(os, arch, cuda).ok_or_else(|| InstallError::UnsupportedPlatform {
            os: os.to_owned(),
            arch: arch.to_owned(),
            cuda,
        })?;
        self.install_pin(pin, progress)
    }

    fn install_pin(
        &self,
        pin: &Pin,
        progress: &dyn Fn(InstallEvent),
    ) -> Result<Library, InstallError> {
        let target = pins::installed_folder(&self.cache, pin.cuda);
        std::fs::create_dir_all(&self.cache).map_err(cache_error(&self.cache))?;
        let _lock = lock(&target.with_added_extension("lock"), progress)?;
        if is_complete(&target, pin)
            && let Some(library) = locate::in_cache(&self.cache, pin.cuda)
        {
            return Ok(library);
        }

        remove_remains(&self.cache, &target)?;
        let partial = tempfile::Builder::new()
            .prefix(&partial_prefix(&target))
            .tempdir_in(&self.cache)
            .map_err(cache_error(&self.cache))?;
        let libraries = partial.path().join("libraries");
        std::fs::create_dir(&libraries).map_err(cache_error(&libraries))?;
        self.fetch(pin, partial.path(), &libraries, progress)?;
        std::fs::rename(&libraries, &target).map_err(cache_error(&target))?;

        let version = pins::VERSION.to_owned();
        let path = target.join(pin.libraries[0]);
        Ok(Library::new(&path, version, LibrarySource::Downloaded))
    }

    /// Downloads the wheel into `partial`, and unpacks its libraries into `libraries`.
    fn fetch(
        &self,
        pin: &Pin,
        partial: &Path,
        libraries: &Path,
        progress: &dyn Fn(InstallEvent),
    ) -> Result<(), InstallError> {
        let cuda = pin.cuda;
        let downloading = |bytes| {
            progress(InstallEvent::Downloading {
                bytes,
                total_bytes: pin.size_bytes,
            });
        };
        let wheel = pip::python_with_pip(&self.interpreters)
            .and_then(|python| pip::download(python, pin, partial, &downloading))
            .map_err(|source| InstallError::Download { cuda, source })?;

        let wheel_error = |source| InstallError::Wheel { cuda, source };
        progress(InstallEvent::Verifying);
        wheel::verify(&wheel, pin.sha256).map_err(wheel_error)?;
        progress(InstallEvent::Unpacking);
        wheel::unpack(&wheel, pin.libraries, libraries).map_err(wheel_error)
    }
}

fn cache_error(path: &Path) -> impl Fn(io::Error) -> InstallError {
    let path = path.to_path_buf();
    move |source| InstallError::Cache {
        path: path.clone(),
        source,
    }
}

fn is_complete(folder: &Path, pin: &Pin) -> bool {
    pin.libraries
        .iter()
        .all(|library| folder.join(library).is_file())
}

/// Takes the lock, which is held until the returned file is dropped. The file itself remains, since
/// another process may be waiting on it.
fn lock(path: &Path, progress: &dyn Fn(InstallEvent)) -> Result<File, InstallError> {
    let open = File::options()
        .create(true)
        .write(true)
        .truncate(false)
        .open(path);
    let file = open.map_err(cache_error(path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            progress(InstallEvent::Waiting);
            file.lock().map_err(cache_error(path))?;
        }
        Err(TryLockError::Error(source)) => return Err(cache_error(path)(source)),
    }
    Ok(file)
}

fn partial_prefix(target: &Path) -> String {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    format!(".{name}.partial-")
}

/// Removes an incomplete `target` and the remains of killed processes. The caller holds the lock.
fn remove_remains(cache: &Path, target: &Path) -> Result<(), InstallError> {
    let prefix = partial_prefix(target);
    let entries = cache.read_dir().map_err(cache_error(cache))?.flatten();
    let is_partial = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with(&prefix);
    let remains = entries
        .filter(|entry| is_partial(&entry.file_name()) || entry.path() == target)
        .map(|entry| entry.path());
    for path in remains {
        std::fs::remove_dir_all(&path).map_err(cache_error(&path))?;
    }
    Ok(())
}

#[cfg(test)]
#[cfg(unix)]
mod tests;
