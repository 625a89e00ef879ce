//! Experiment folders: `experiments/<method>/<name>/`, or any folder with an `adapter_config.json`.

mod hints;

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::adapter::folder::{self, CONFIG};
use crate::adapter::{AdapterError, Values};
use crate::file_names;
use crate::json::{ConfigError, JsonObject};

/// An experiment that isn't there.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
pub enum ExperimentError {
    #[error("there is no experiment folder `{name}`{hint}")]
    Missing { name: String, hint: String },
    #[error("`{}` is a file, and an adapter's folder is needed{hint}", path.display())]
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
}

/// An adapter to prepare and measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Experiment {
    /// Its folder.
    pub folder: PathBuf,
    /// The first part of its result's name: the folder above, in `experiments/`, else the `peft_type`.
    pub method: String,
    /// The second part: the folder's own name, or that of the hub's repository.
    pub name: String,
    /// Which values it's used with.
    pub values: Values,
    /// Whether they are drawn.
    pub fresh: bool,
}

/// Where experiments are looked for by name.
const EXPERIMENTS: &str = "experiments";

/// How the hub's cache calls the folders of repositories and of their commits.
const OF_REPOSITORY: &str = "models--";
const SNAPSHOTS: &str = "snapshots";

impl Experiment {
    /// Finds the experiment `name`: a folder, or one below `experiments/`.
    ///
    /// # Errors
    /// If there's no such folder, it has no `adapter_config.json`, or lacks the weights of a trained adapter.
    pub fn find(name: &Path) -> Result<Self, ExperimentError> {
        Self::find_with(name, Values::default())
    }

    /// The same, to be used with other values.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn find_with(name: &Path, values: Values) -> Result<Self, ExperimentError> {
        match folder_of(name) {
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

    /// The experiment in `folder`.
    ///
    /// # Errors
    /// If it has no `adapter_config.json`, or lacks the weights of a trained adapter.
    pub fn at(folder: &Path, values: Values) -> Result<Self, ExperimentError> {
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

    /// `<method>--<name>`, for files and folders.
    pub fn file_stem(&self) -> String {
        format!("{}--{}", self.method, self.name)
    }

    /// The same for files and folders: with a hash of its place, unless it's one of the `experiments/` here.
    pub fn file_name(&self) -> String {
        let below = Path::new(EXPERIMENTS).join(&self.method).join(&self.name);
        let place = |path: &Path| std::fs::canonicalize(path).ok();
        let shipped = place(&below).is_some_and(|below| place(&self.folder) == Some(below));
        match shipped {
            true => self.file_stem(),
            false => file_names::of_place(&self.file_stem(), &self.folder),
        }
    }
}

/// The folder that `name` means, if there is one: that, or one below `experiments/`.
pub fn folder_of(name: &Path) -> Option<PathBuf> {
    let below = Path::new(EXPERIMENTS).join(name);
    [name.to_owned(), below]
        .into_iter()
        .find(|path| path.is_dir())
}

/// Whether the first part of the path `name` is a folder, so that a mistyped path is more likely than anything else.
pub fn begins_as_folder(name: &Path) -> bool {
    let first = name.components().next();
    first.is_some_and(|first| folder_of(Path::new(first.as_os_str())).is_some())
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

/// Method and name.
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
        _ => config.optional_text("peft_type")?.map(str::to_lowercase),
    };
    // A snapshot is called by its commit's hash, which says nothing to people.
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
