//! Finding, installing, identifying and loading ONNX Runtime's shared library.

pub mod cuda;
pub mod cuda_libraries;
pub mod install;
pub mod library;
pub mod locate;
pub mod pins;
pub mod pip;
mod provider;
pub mod python;
mod runtime;
pub mod wheel;

pub use provider::Provider;
pub use runtime::{OnnxRuntime, RuntimeError};
