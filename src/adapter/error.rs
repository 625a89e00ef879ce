//! Errors of loading an adapter.

use std::path::PathBuf;

use thiserror::Error;

use super::folder::FolderError;
use crate::decomposition::DecompositionError;
use crate::json::ConfigError;
use crate::weights::{WeightsError, WriteTensorError};

/// Why an adapter can't be loaded, or can't be used with a base.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum AdapterError {
    #[error(transparent)]
    Config(#[from] ConfigError),

    #[error(transparent)]
    Weights(#[from] WeightsError),

    #[error(transparent)]
    Write(#[from] WriteTensorError),

    #[error(transparent)]
    Folder(#[from] FolderError),

    #[error(
        "tensor `{key}` in `{}` is not finite: element {index} is {value}",
        path.display()
    )]
    NonFinite {
        key: String,
        path: PathBuf,
        index: usize,
        value: f32,
    },

    #[error("tensor `{key}` is missing in `{}`{nearest}", path.display())]
    Missing {
        key: String,
        path: PathBuf,
        /// A clause that names the most similar key of the file; empty if there is none.
        nearest: String,
    },

    #[error("tensor `{key}` is missing in `{}`, and {found} could both be it", path.display())]
    Ambiguous {
        key: String,
        found: String,
        path: PathBuf,
    },

    #[error(
        "tensor `{key}` in `{}` has shape {actual:?}, expected {expected:?}; was the adapter made \
         for this base model?{made_for}",
        path.display()
    )]
    Shape {
        key: String,
        path: PathBuf,
        actual: Vec<usize>,
        expected: Vec<usize>,
        made_for: String,
    },

    #[error(
        "`{}` has tensors that nothing in this model uses, {count} in all, the first is \
         `{first}`: {advice}",
        path.display()
    )]
    Unused {
        path: PathBuf,
        count: usize,
        first: String,
        advice: String,
    },

    #[error(
        "`{}` was trained with a vocabulary of {size} tokens, and row {first} of `{name}` is unknown: the base has {there} rows, and \
         the file holds no whole `{name}`; save the adapter again with `save_pretrained(…, save_embedding_layers=True)` or \
         with this module in `modules_to_save`",
        path.display()
    )]
    Rows {
        path: PathBuf,
        name: String,
        size: usize,
        there: usize,
        first: usize,
    },

    #[error("`{}`: {message}", path.display())]
    Targets { path: PathBuf, message: String },

    #[error(
        "`--adapter-form native` is not implemented for {peft_type} on `{path}`; `reduced` gives the same results"
    )]
    Form { path: String, peft_type: String },

    #[error(
        "there is no task {id}: `{}` has {count} (`{key}`), counted from 0",
        path.display()
    )]
    TaskId {
        id: usize,
        path: PathBuf,
        key: &'static str,
        count: usize,
    },

    #[error(
        "task {id} was asked for (`--task-id`, or `task_id` in the benchmark's parameters), and `{}` has \
        none: {peft_type} has no tasks",
        path.display()
    )]
    NoTasks {
        id: usize,
        peft_type: &'static str,
        path: PathBuf,
    },

    #[error("cannot make a fresh adapter from `{}`: {message}", path.display())]
    Fresh { path: PathBuf, message: String },

    #[error("cannot decompose the weight of `{module}`")]
    Decomposition {
        module: String,
        source: DecompositionError,
    },
}
