//! Errors of tensor files.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// A safetensors file that can't be read, written, or used as asked.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum WeightsError {
    #[error("cannot read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },

    #[error("cannot write `{}`", path.display())]
    Write { path: PathBuf, source: io::Error },

    #[error("`{}` is not a valid safetensors file: {message}", path.display())]
    Header { path: PathBuf, message: String },

    #[error("`{}` is not a shard index: {message}", path.display())]
    NoIndex {
        path: PathBuf,
        message: &'static str,
    },

    #[error("cannot parse `{}`", path.display())]
    Index {
        path: PathBuf,
        source: serde_json::Error,
    },

    #[error("`{}`: {message}", path.display())]
    Layout { path: PathBuf, message: String },

    #[error("tensor `{name}` is missing in `{}`", path.display())]
    Missing { name: String, path: PathBuf },

    #[error(
        "tensor `{name}` in `{}` has shape {actual:?}, expected {expected:?}",
        path.display()
    )]
    Shape {
        name: String,
        path: PathBuf,
        actual: Vec<usize>,
        expected: Vec<usize>,
    },

    #[error(
        "tensor `{name}` in `{}` is empty (shape [0]), as DeepSpeed ZeRO-3 leaves those that weren't gathered before they were \
         saved: save the {what} again with `stage3_gather_16bit_weights_on_model_save`, or take it from whole weights that \
         DeepSpeed's `zero_to_fp32.py` makes of the training's checkpoint",
        path.display()
    )]
    NotGathered {
        name: String,
        path: PathBuf,
        what: &'static str,
    },

    #[error(
        "tensor `{name}` in `{}` holds {value} (element {index}); weights have to be finite",
        path.display()
    )]
    NonFinite {
        name: String,
        path: PathBuf,
        index: usize,
        value: f32,
    },

    #[error(
        "tensor `{name}` in `{}` has dtype {actual:?}; supported: F32, F16, BF16",
        path.display()
    )]
    Dtype {
        name: String,
        path: PathBuf,
        actual: safetensors::Dtype,
    },
}
