//! ONNX Runtime's shared library: where it is, and how it gets there.

pub mod cuda;
pub mod cuda_libraries;
pub mod install;
pub mod library;
pub mod locate;
pub mod pins;
pub mod pip;
mod provider;
pub mod python;
pub mod wheel;

pub use provider::Provider;
