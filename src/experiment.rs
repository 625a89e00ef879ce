//! Experiment folders, `experiments/<method>/<name>/` or any folder with an `adapter_config.json`:
//! finding, checking and beginning them.

pub mod built_in;
pub mod check;
pub mod draft;
mod hints;

use std::path::{Path, PathBuf};

use thiserror::Error;

use self::built_in::BuiltInError;
use crate::adapter::folder::{self, CONFIG};
use crate::adapter::{AdapterError, ValuesFrom};
use crate::file_names;
use crate::json::{ConfigError, JsonObject};

/// An experiment that can't be found or read.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum ExperimentError {
    #[error("there is no experiment folder `{name}`{hint}")]
    Missing { name: String, hint: String },
    #[error("`{}` is a file, expected an adapter's folder{hint}", path.display())]
    File { path: PathBuf, hint: String },
    #[error(
        "`{}` has no `adapter_config.json`, which an experiment needs{hint}",
        folder.display()
    )]
    NoConfig { folder: PathBuf, hint: String },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    #[error(transparent)]
    BuiltIn(#[from] BuiltInError),
}

/// An adapter to prepare and measure, in a folder with an `adapter_config.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Experiment {
    /// Its folder.
    pub folder: PathBuf,
    /// First part of the result's name: the parent folder's name for folders of `experiments/`,
    /// else the `peft_type`.
    pub method: String,
    /// Second part of the result's name: the name of the folder or of the hub repository.
    pub name: String,
    /// Whether stored or fresh values are to be used.
    pub values: ValuesFrom,
    /// Whether its values are drawn at random rather than read from a file.
    pub fresh: bool,
}

/// The folder in which experiments are found by name, before those that are built in.
pub const EXPERIMENTS: &str = "experiments";

/// In the hub's cache, a repository's folder is `models--<org>--<name>`, and its commits are below
/// `snapshots`.
const OF_REPOSITORY: &str = "models--";
const SNAPSHOTS: &str = "snapshots";

impl Experiment {
    /// Finds the experiment `name`: a folder, one below `experiments/`, or a built-in one.
    ///
    /// # Errors
    /// If there's no such folder, it has no `adapter_config.json`, or lacks the weights of a
    /// trained adapter. If it's built in and can't be written into the cache folder.
    pub fn find(name: &Path) -> Result<Self, ExperimentError> {
        Self::find_with(name, ValuesFrom::default())
    }

    /// Finds the experiment `name` as [`find`](Self::find) does, to be used with `values`.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn find_with(name: &Path, values: ValuesFrom) -> Result<Self, ExperimentError> {
        match folder_of(name)? {
            Some(folder) => Self::at(&folder, values),
            None if name.is_file() => Err(ExperimentError::File {
                path: name.to_owned(),
                hint: hints::hint_for_file(name),
            }),
            None => Err(ExperimentError::Missing {
                name: name.display().to_string(),
                hint: hints::hint(name, Path::new(EXPERIMENTS)),
            }),
        }
    }

    /// The experiment in `folder`, to be used with `values`.
    ///
    /// # Errors
    /// If it has no `adapter_config.json`, or lacks the weights of a trained adapter.
    pub fn at(folder: &Path, values: ValuesFrom) -> Result<Self, ExperimentError> {
        let path = folder.join(CONFIG);
        if path.symlink_metadata().is_err() {
            return Err(ExperimentError::NoConfig {
                folder: folder.to_owned(),
                hint: hints::hint_inside(folder),
            });
        }
        let config = JsonObject::read(&path)?;
        let weights = folder::open(folder, &config, values)?;
        let (method, name) = names(folder, &config)?;
        Ok(Self {
            folder: folder.to_owned(),
            method,
            name,
            values,
            fresh: weights.is_none(),
        })
    }

    /// `<method>--<name>`, for names of files and folders.
    pub fn file_stem(&self) -> String {
        format!("{}--{}", self.method, self.name)
    }

    /// [`file_stem`](Self::file_stem), followed by a hash of the folder's path unless it's in
    /// `experiments/` here, or built in.
    pub fn file_name(&self) -> String {
        let place = |path: &Path| std::fs::canonicalize(path).ok();
        let is_below = |experiments: PathBuf| {
            let below = experiments.join(&self.method).join(&self.name);
            place(&below).is_some_and(|below| place(&self.folder) == Some(below))
        };
        match is_below(EXPERIMENTS.into()) || is_below(built_in::experiments()) {
            true => self.file_stem(),
            false => file_names::of_place(&self.file_stem(), &self.folder),
        }
    }
}

/// Resolves `name` to an existing folder: as a path, below `experiments/`, or built in.
///
/// # Errors
/// If it's built in and can't be written into the cache folder.
pub fn folder_of(name: &Path) -> Result<Option<PathBuf>, BuiltInError> {
    match folder_here(name) {
        Some(folder) => Ok(Some(folder)),
        None => built_in::folder(name),
    }
}

/// Resolves `name` to a folder that's named by its path, or is below `experiments/` here.
fn folder_here(name: &Path) -> Option<PathBuf> {
    let below = Path::new(EXPERIMENTS).join(name);
    [name.to_owned(), below]
        .into_iter()
        .find(|path| path.is_dir())
}

/// The three experiments, here or built in, whose names are the most similar to `name`, in words;
/// `None` if there are none.
pub fn nearest_experiments(name: &str) -> Option<String> {
    hints::nearest_experiments(name, Path::new(EXPERIMENTS))
}

/// Whether the first component of the path `name` is a folder that's here or built in: then `name`
/// is more likely a mistyped path than a hub id.
pub fn begins_as_folder(name: &Path) -> bool {
    let first = name.components().next();
    let is_folder = |first: &Path| folder_here(first).is_some() || built_in::has(first);
    first.is_some_and(|first| is_folder(Path::new(first.as_os_str())))
}

/// The `<method>--<name>` of the adapter in `folder`.
///
/// # Errors
/// If its configuration can't be read.
pub fn stem_of(folder: &Path) -> Result<String, ConfigError> {
    let config = JsonObject::read(&folder.join(CONFIG))?;
    let (method, name) = names(folder, &config)?;
    Ok(format!("{method}--{name}"))
}

/// Method and name of the adapter in `folder`.
fn names(folder: &Path, config: &JsonObject) -> Result<(String, String), ConfigError> {
    let full = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let part = |path: Option<&Path>| {
        let name = path.and_then(Path::file_name);
        name.map(|name| name.to_string_lossy().into_owned())
    };
    let above = full.parent();
    let two_above = part(above.and_then(Path::parent));
    let method = match &two_above {
        Some(two_above) if two_above == EXPERIMENTS => part(above),
        // It becomes a part of files' names, and isn't known to be a method yet.
        _ => {
            let method = config.optional_text("peft_type")?;
            method.map(|method| file_names::readable(&method.to_lowercase()))
        }
    };
    // A snapshot's folder is named by a commit hash, so the repository's name is used instead.
    let repository = two_above
        .as_deref()
        .and_then(|name| name.strip_prefix(OF_REPOSITORY));
    let name = match repository {
        Some(repository) if part(above).as_deref() == Some(SNAPSHOTS) => {
            Some(repository.to_owned())
        }
        _ => part(Some(&full)),
    };
    Ok((
        method.unwrap_or_else(|| "adapter".to_owned()),
        name.unwrap_or_else(|| "experiment".to_owned()),
    ))
}
