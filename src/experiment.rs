//! Experiment folders: `experiments/<method>/<name>/`, or any folder with an `adapter_config.json`.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::file_names;
use crate::json::{ConfigError, JsonObject};

/// An experiment that isn't there.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
pub enum ExperimentError {
    #[error("there is no experiment folder `{name}`{hint}")]
    Missing { name: String, hint: String },
    #[error(
        "`{}` has no `adapter_config.json`, which an experiment needs",
        folder.display()
    )]
    NoConfig { folder: PathBuf },
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// An adapter to prepare and measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Experiment {
    /// Its folder.
    pub folder: PathBuf,
    /// The first part of its result's name: the folder above, in `experiments/`, else the `peft_type`.
    pub method: String,
    /// The second part: the folder's own name.
    pub name: String,
}

/// Where experiments are looked for by name.
const EXPERIMENTS: &str = "experiments";

impl Experiment {
    /// Finds the experiment `name`: a folder, or one below `experiments/`.
    ///
    /// # Errors
    /// If there's no such folder, or it has no `adapter_config.json`.
    pub fn find(name: &Path) -> Result<Self, ExperimentError> {
        let below = Path::new(EXPERIMENTS).join(name);
        let folder = [name, &below].into_iter().find(|path| path.is_dir());
        let Some(folder) = folder else {
            let known = list(Path::new(EXPERIMENTS));
            return Err(ExperimentError::Missing {
                name: name.display().to_string(),
                hint: match known.is_empty() {
                    true => String::new(),
                    false => format!("; `{EXPERIMENTS}/` has {}", known.join(", ")),
                },
            });
        };
        let config = folder.join("adapter_config.json");
        if !config.is_file() {
            return Err(ExperimentError::NoConfig {
                folder: folder.to_owned(),
            });
        }
        let full = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        let part = |path: Option<&Path>| {
            let name = path.and_then(Path::file_name);
            name.map(|name| name.to_string_lossy().into_owned())
        };
        let above = full.parent();
        let method = match part(above.and_then(Path::parent)) {
            Some(grandparent) if grandparent == EXPERIMENTS => part(above),
            _ => {
                let config = JsonObject::read(&config)?;
                config.optional_text("peft_type")?.map(str::to_lowercase)
            }
        };
        Ok(Self {
            method: method.unwrap_or_else(|| "adapter".to_owned()),
            name: part(Some(&full)).unwrap_or_else(|| "experiment".to_owned()),
            folder: folder.to_owned(),
        })
    }

    /// `<method>--<name>`, to be read.
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

/// Experiments below `folder`, as `<method>/<name>`.
fn list(folder: &Path) -> Vec<String> {
    let children = |path: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    let mut found: Vec<String> = children(folder)
        .iter()
        .flat_map(|method| children(method))
        .filter(|path| path.join("adapter_config.json").is_file())
        .filter_map(|path| Some(path.strip_prefix(folder).ok()?.display().to_string()))
        .collect();
    found.sort();
    found
}
