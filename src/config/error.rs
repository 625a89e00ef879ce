//! What can be wrong with the benchmark's parameters.

use std::path::PathBuf;

use thiserror::Error;

use crate::json::check::did_you_mean;

/// Why the parameters can't be used.
#[derive(Debug, Error)]
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

    /// A key that isn't known, and isn't a comment.
    #[error(
        "unknown key `{key}` in {file}{}; allowed: {allowed}",
        did_you_mean(suggestion)
    )]
    UnknownKey {
        /// The file.
        file: String,
        /// The key, with the keys above it (`category_generation_params.shrot`).
        key: String,
        /// The nearest allowed key, if one is near.
        suggestion: Option<String>,
        /// All allowed keys at this place.
        allowed: String,
    },

    /// A value of the wrong type or out of range.
    #[error("`{key}` in {file} is {found}, expected {expected}")]
    Value {
        /// The file.
        file: String,
        /// The key, with the keys above it.
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

    /// Keys on quantization that don't go together.
    #[error("benchmark parameters on quantization: {message}")]
    Quantization {
        /// Which, and why.
        message: String,
    },
}
