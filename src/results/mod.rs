//! Result files: the sections and keys of PEFT's suite, and this program's own beside them.
//!
//! A result has the [name](ResultName) of its configuration, so that only a later run of the same takes its place. One that
//! failed or was cancelled is written under `results/failed/`, with its error, and never takes a good one's place.

mod cache;
mod document;
mod metrics;
mod name;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use cache::{BaseCache, CacheKey};
pub use document::{ResultDocument, RunInfo};
pub use metrics::{CategoryMetrics, count_outliers, summarize};
pub use name::ResultName;

use crate::files::write_file;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It's still going on.
    Running,
    /// Everything that was asked for was measured.
    Success,
    /// Something wasn't.
    Failed,
    /// It was interrupted.
    Cancelled,
}

/// A result that can't be written.
#[derive(Debug, Error)]
#[error("cannot write `{}`", path.display())]
pub struct WriteError {
    path: PathBuf,
    source: std::io::Error,
}

/// Writes `document` as the result `name` below `folder`; returns its path.
///
/// # Errors
/// If it can't be written.
pub fn write(
    folder: &Path,
    name: &ResultName,
    status: Status,
    document: &ResultDocument,
) -> Result<PathBuf, WriteError> {
    let folder = match status {
        Status::Success => folder.to_owned(),
        Status::Running | Status::Failed | Status::Cancelled => folder.join("failed"),
    };
    let path = folder.join(name.file());
    let written = std::fs::create_dir_all(&folder).and_then(|()| {
        let text = serde_json::to_vec_pretty(document)?;
        write_file(&path, &text)
    });
    match written {
        Ok(()) => Ok(path),
        Err(source) => Err(WriteError { path, source }),
    }
}
