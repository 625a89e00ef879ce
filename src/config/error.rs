//! Errors in the benchmark's parameters.

use std::path::PathBuf;

use thiserror::Error;

/// Why a file of benchmark parameters can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ParametersError {
    /// The file can't be read.
    #[error("cannot read benchmark parameters {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },

    /// The file isn't JSON.
    #[error("{file} is not valid JSON")]
    Json {
        /// The file.
        file: String,
        /// The cause, with line and column.
        source: serde_json::Error,
    },

    /// The file's top level isn't an object.
    #[error("{file} holds {found}, expected an object of benchmark parameters")]
    NotAnObject {
        /// The file.
        file: String,
        /// The JSON type found.
        found: &'static str,
    },

    /// A key that's neither known nor a comment.
    #[error(
        "unknown key `{key}` in {file}; did you mean {nearest}? docs/configuration.md lists all"
    )]
    UnknownKey {
        /// The file.
        file: String,
        /// The key with its parent keys: `category_generation_params.shrot`.
        key: String,
        /// The most similar keys that are allowed there, in words.
        nearest: String,
    },

    /// A value of the wrong type or out of range.
    #[error("`{key}` in {file} is {found}, expected {expected}")]
    Value {
        /// The file.
        file: String,
        /// The key with its parent keys.
        key: String,
        /// The value found, as JSON.
        found: String,
        /// What is allowed.
        expected: String,
    },

    /// The built-in defaults lack a key.
    #[error("{file} has no key `{key}`")]
    Missing {
        /// The file.
        file: &'static str,
        /// The key.
        key: &'static str,
    },

    /// Keys on quantization that contradict each other.
    #[error("benchmark parameters on quantization: {message}")]
    Quantization {
        /// Which keys, and why.
        message: String,
    },
}
