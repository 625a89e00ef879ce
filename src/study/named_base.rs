//! The base model that an adapter names, for runs that name none.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::adapter::folder::CONFIG;
use crate::experiment::Experiment;
use crate::json::{ConfigError, JsonObject};
use crate::model::{ModelError, ModelId};

const KEY: &str = "base_model_name_or_path";

const ADVICE: &str = "name the base with `--model` (a folder, or a hub id `org/name[@revision]`)";

/// A base that can't be told from the adapter's configuration.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum NamedBaseError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("`{}` doesn't say which base the adapter was trained on (`{KEY}`): {ADVICE}", .0.display())]
    Unnamed(PathBuf),
    #[error(transparent)]
    Revision(Box<ModelError>),
    #[error(
        "the adapter's base `{name}` (`{KEY}` of `{}`) isn't here, neither as written nor in the adapter's folder: {ADVICE}",
        config.display()
    )]
    Missing { name: String, config: PathBuf },
}

/// The base that the configuration of `experiment` names: a folder, also relative to the adapter's,
/// or a hub id with its revision. `None` where a fresh adapter names none.
///
/// # Errors
/// If it can't be had, or a trained adapter names none.
pub fn named_base(experiment: &Experiment) -> Result<Option<String>, NamedBaseError> {
    let path = experiment.folder.join(CONFIG);
    let config = JsonObject::read(&path)?;
    let Some(name) = config.optional_text(KEY)?.filter(|name| !name.is_empty()) else {
        if experiment.fresh {
            return Ok(None);
        }
        return Err(NamedBaseError::Unnamed(path));
    };
    let relative = experiment.folder.join(name);
    let folder = [Path::new(name), &relative]
        .into_iter()
        .find(|path| path.is_dir());
    if let Some(folder) = folder {
        return Ok(Some(folder.display().to_string()));
    }
    match ModelId::parse(name) {
        Ok(ModelId::Hub(mut id)) => {
            let revision = config
                .optional_text("revision")?
                .filter(|name| !name.is_empty());
            id.revision = id.revision.or_else(|| revision.map(str::to_owned));
            // What the revision is made into has to be one that can be asked for.
            match ModelId::parse(&id.to_string()) {
                Ok(id) => Ok(Some(id.to_string())),
                Err(error) => Err(NamedBaseError::Revision(Box::new(error))),
            }
        }
        Ok(id) => Ok(Some(id.to_string())),
        Err(_) => Err(NamedBaseError::Missing {
            name: name.to_owned(),
            config: path,
        }),
    }
}
