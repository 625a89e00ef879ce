//! The folder that a checkpoint is written to, and the marker file by which this program recognizes
//! its own.

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::adapter::Adapter;
use crate::experiment::stem_of;
use crate::model::BaseModel;
use crate::prepare::PrepareError;

/// A file that marks a folder as written by this program, which may therefore replace it.
pub const MARKER: &str = "peft-bench.json";

#[derive(Serialize, Deserialize)]
struct Marker {
    version: String,
    model_id: String,
    /// `<method>--<name>`
    experiment: Option<String>,
}

/// The marker's content for a checkpoint of `base` and `adapter`.
pub fn marker(base: &BaseModel, adapter: Option<&Adapter>) -> String {
    let experiment = adapter
        .and_then(|adapter| adapter.config.path().parent())
        .and_then(|folder| stem_of(folder).ok());
    let marker = Marker {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        model_id: base.id.to_string(),
        experiment,
    };
    let text = serde_json::to_string_pretty(&marker).expect("strings are representable in JSON");
    text + "\n"
}

/// A folder that a checkpoint may be written to.
#[derive(Debug)]
pub struct CheckpointFolder {
    parent: PathBuf,
    path: PathBuf,
}

impl CheckpointFolder {
    /// Resolves `folder`; its parent is created if it doesn't exist.
    ///
    /// # Errors
    /// If `folder` exists and wasn't written by this program, or contains what the checkpoint is
    /// made from.
    pub fn new(
        folder: &Path,
        base: &BaseModel,
        adapter: Option<&Adapter>,
    ) -> Result<Self, PrepareError> {
        let failed = |source| PrepareError::Write {
            path: folder.to_owned(),
            source,
        };
        if folder.symlink_metadata().is_ok() {
            let path = fs::canonicalize(folder).map_err(failed)?;
            check_replaceable(&path, base, adapter)?;
            let parent = path.parent().unwrap_or(Path::new("/")).to_owned();
            return Ok(Self { parent, path });
        }
        let full = std::path::absolute(folder).map_err(failed)?;
        let (Some(parent), Some(name)) = (full.parent(), full.file_name()) else {
            let reason = "the path doesn't end in a name";
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, reason)));
        };
        fs::create_dir_all(parent).map_err(failed)?;
        let parent = fs::canonicalize(parent).map_err(failed)?;
        let path = parent.join(name);
        Ok(Self { parent, path })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its parent folder.
    pub fn parent(&self) -> &Path {
        &self.parent
    }

    /// Makes the error for the file `name` in the folder, or for the folder itself if `name` is
    /// empty.
    pub fn failed(&self, name: &str) -> impl FnOnce(io::Error) -> PrepareError {
        let path = match name {
            "" => self.path.clone(),
            name => self.path.join(name),
        };
        |source| PrepareError::Write { path, source }
    }
}

/// Refuses an existing `path` without marker, and one that contains what the checkpoint is made
/// from: running the same command twice would merge the adapter twice.
fn check_replaceable(
    path: &Path,
    base: &BaseModel,
    adapter: Option<&Adapter>,
) -> Result<(), PrepareError> {
    let text = fs::read(path.join(MARKER)).unwrap_or_default();
    if serde_json::from_slice::<Marker>(&text).is_err() {
        return Err(PrepareError::Occupied {
            path: path.to_owned(),
        });
    }
    let adapter = adapter.and_then(|adapter| adapter.config.path().parent());
    for source in adapter.into_iter().chain([base.folder.as_path()]) {
        if fs::canonicalize(source).is_ok_and(|source| source.starts_with(path)) {
            let reason = "the base model or the adapter is read from this folder";
            return Err(PrepareError::Write {
                path: path.to_owned(),
                source: io::Error::new(io::ErrorKind::InvalidInput, reason),
            });
        }
    }
    Ok(())
}
