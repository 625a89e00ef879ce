//! ONNX Runtime, loaded into this process.

use std::ffi::CStr;
use std::path::PathBuf;

use ort::environment::Environment;
use thiserror::Error;

use super::library::Library;

/// A loaded ONNX Runtime.
#[derive(Debug)]
pub struct OnnxRuntime {
    environment: Environment,
}

/// The library can't be loaded, or speaks an older interface.
#[derive(Debug, Error)]
#[error("ONNX Runtime cannot be loaded from `{}`: {message}", path.display())]
pub struct RuntimeError {
    path: PathBuf,
    message: String,
}

impl OnnxRuntime {
    /// Loads `library`. A process has one ONNX Runtime: the first that's loaded.
    ///
    /// # Errors
    /// If it can't be loaded, or speaks an older interface.
    pub fn load(library: &Library) -> Result<Self, RuntimeError> {
        let failed = |message: String| RuntimeError {
            path: library.path.clone(),
            message,
        };
        let builder = ort::init_from(&library.path).map_err(|error| failed(error.to_string()))?;
        let environment = builder
            .with_telemetry(false)
            .build()
            .map_err(|error| failed(error.message().to_owned()))?;
        Ok(Self { environment })
    }

    /// What sessions are opened in.
    pub(crate) fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The execution providers that this build of ONNX Runtime has.
    #[expect(
        unsafe_code,
        reason = "the safe interface asks about one provider at a time"
    )]
    pub fn providers(&self) -> Vec<String> {
        let api = ort::api();
        let mut names = std::ptr::null_mut();
        let mut count = 0;
        // SAFETY: on success `names` holds `count` strings, which are copied and then released.
        unsafe {
            if !(api.GetAvailableProviders)(&mut names, &mut count)
                .0
                .is_null()
            {
                return Vec::new();
            }
            let list = (0..count as usize)
                .map(|index| {
                    CStr::from_ptr(*names.add(index))
                        .to_string_lossy()
                        .into_owned()
                })
                .collect();
            let _ = (api.ReleaseAvailableProviders)(names, count);
            list
        }
    }
}
