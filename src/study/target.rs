//! What is measured, generated with or prepared, as the user names it: an adapter, a prepared
//! folder, or a checkpoint.

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::observer::{Event, Note};
use super::prepared_folder::{PreparedFolder, PreparedFolderError};
use super::setup::Setup;
use crate::adapter::ValuesFrom;
use crate::adapter::fetch_adapter;
use crate::adapter::folder::{CONFIG, has_weights};
use crate::advice::shell_word;
use crate::experiment::{
    Experiment, ExperimentError, begins_as_folder, folder_of, nearest_experiments,
};
use crate::foreign::{self, ForeignError};
use crate::model::ModelId;
use crate::model::hub::{DownloadProgress, HubError, HubId, HubSettings};
use crate::prepared::PreparedVariant;
use crate::weights::TensorStore;

/// A target that can't be used.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum TargetError {
    #[error(transparent)]
    Experiment(Box<ExperimentError>),
    #[error("`{id}` is no folder here{meant}, and was looked for on the hub")]
    Hub {
        id: HubId,
        /// A clause with the experiments that may have been meant; empty if there are none.
        meant: String,
        source: Box<HubError>,
    },
    #[error("`{option}` goes with an adapter's folder, and `{}` is {found}", path.display())]
    ValuesFrom {
        option: &'static str,
        path: PathBuf,
        found: &'static str,
    },
    #[error(
        "`{}` is not an experiment: it's prepared already, `peft-bench measure` and `generate` take it",
        .0.display()
    )]
    Prepared(PathBuf),
    #[error(
        "`{path}` is not an experiment: it's a checkpoint without `{CONFIG}`, `peft-bench measure {word} --model BASE` \
         measures it against its base",
        path = .0.display(),
        word = shell_word(.0)
    )]
    Checkpoint(PathBuf),
    #[error(transparent)]
    PreparedFolder(#[from] PreparedFolderError),
    #[error(transparent)]
    Foreign(Box<ForeignError>),
    #[error(
        "`{}` is not an experiment: it's exported already, `peft-bench measure` takes it",
        .0.display()
    )]
    Exported(PathBuf),
}

impl From<ForeignError> for TargetError {
    fn from(error: ForeignError) -> Self {
        Self::Foreign(Box::new(error))
    }
}

impl From<ExperimentError> for TargetError {
    fn from(error: ExperimentError) -> Self {
        Self::Experiment(Box::new(error))
    }
}

/// What a target is.
#[derive(Debug)]
pub enum Target {
    /// An adapter.
    Experiment(Experiment),
    /// A folder of `exported_models`: one with variants below it, or one variant.
    Prepared(PreparedFolder),
    /// A base model's or a merged checkpoint's folder, its hub id, or a synthetic model.
    Checkpoint(ModelId),
    /// Graphs that are run as they are: a folder that another program exported, or a portable one.
    Foreign(Box<PreparedVariant>),
}

impl Target {
    /// Looks at what's there, else asks the hub.
    ///
    /// # Errors
    /// If it's none of these, or is an adapter or a graph that can't be used.
    pub fn find(setup: &Setup, path: &Path) -> Result<Self, TargetError> {
        let values = setup.settings.values;
        let found = match Self::local(setup, path)? {
            Some(found) => found,
            None => match (synthetic(path), hub_id(path)) {
                (Some(model), _) => Self::Checkpoint(model),
                (None, Some(id)) => Self::on_hub(setup, &id)?,
                (None, None) => Self::Experiment(Experiment::find_with(path, values)?),
            },
        };
        let option = match values {
            ValuesFrom::Fresh => "--fresh",
            ValuesFrom::Trained => "--trained",
            ValuesFrom::AsFound => return Ok(found),
        };
        match found {
            Self::Experiment(_) => Ok(found),
            Self::Prepared(_) | Self::Checkpoint(_) | Self::Foreign(_) => {
                Err(TargetError::ValuesFrom {
                    option,
                    path: path.to_owned(),
                    found: found.in_words(),
                })
            }
        }
    }

    /// What a folder is; `None` where there's none.
    fn local(setup: &Setup, path: &Path) -> Result<Option<Self>, TargetError> {
        let values = setup.settings.values;
        let has = |name: &str| path.join(name).symlink_metadata().is_ok();
        if has(CONFIG) {
            let is_model = has("config.json") && TensorStore::is_in(path);
            if is_model && !has_weights(path) && values == ValuesFrom::AsFound {
                setup.note(Note::AdapterConfigIgnored { folder: path });
                return Ok(Some(Self::Checkpoint(ModelId::Local(path.to_owned()))));
            }
            if is_model {
                setup.note(Note::AdapterAndModel { folder: path });
            }
            return Ok(Some(Self::Experiment(Experiment::at(path, values)?)));
        }
        if let Some(prepared) = PreparedFolder::find(path) {
            return Ok(Some(Self::Prepared(prepared)));
        }
        // A repository may hold a checkpoint and graphs of it, which then have to be named.
        let is_checkpoint = TensorStore::is_in(path) && !foreign::is_for_genai(path);
        if foreign::is_exported(path) && !is_checkpoint {
            return Ok(Some(Self::exported(path)?));
        }
        if has("config.json") {
            return Ok(Some(Self::Checkpoint(ModelId::Local(path.to_owned()))));
        }
        match folder_of(path).map_err(ExperimentError::from)? {
            Some(folder) => Ok(Some(Self::Experiment(Experiment::at(&folder, values)?))),
            None => Ok(None),
        }
    }

    /// The graphs at `path`, to be run as they are.
    ///
    /// # Errors
    /// If they can't be.
    pub fn exported(path: &Path) -> Result<Self, TargetError> {
        Ok(Self::Foreign(Box::new(foreign::read(path)?)))
    }

    /// What the hub has under `id`.
    fn on_hub(setup: &Setup, id: &HubId) -> Result<Self, TargetError> {
        let mut settings = HubSettings::from_env();
        settings.offline |= setup.settings.offline;
        let report = |report: DownloadProgress| {
            let label = format!("downloading {}", report.file);
            setup.bytes(&label, report.done_bytes, report.total_bytes);
        };
        let values = setup.settings.values;
        let fetched = fetch_adapter(id, values == ValuesFrom::Fresh, &settings, &report);
        setup.tell(Event::BytesEnded);
        let fetched = fetched.map_err(|error| TargetError::Hub {
            meant: nearest_experiments(&id.to_string())
                .map_or_else(String::new, |nearest| format!(" (did you mean {nearest}?)")),
            id: id.clone(),
            source: Box::new(error),
        })?;
        let Some(folder) = fetched else {
            return Ok(Self::Checkpoint(ModelId::Hub(id.clone())));
        };
        setup.tell(Event::AdapterFound {
            id,
            folder: &folder,
        });
        let mut experiment = Experiment::at(&folder, values)?;
        if let Some(revision) = &id.revision {
            let revision = revision.replace('/', "-");
            experiment.name = format!("{}--{revision}", experiment.name);
        }
        Ok(Self::Experiment(experiment))
    }

    fn in_words(&self) -> &'static str {
        match self {
            Self::Experiment(_) => "an adapter",
            Self::Prepared(_) => "prepared already",
            Self::Checkpoint(_) => "a checkpoint",
            Self::Foreign(_) => "exported already",
        }
    }

    /// The adapter, where one is needed; `path` is the target as it was named.
    ///
    /// # Errors
    /// If it's something else.
    pub fn into_experiment(self, path: &Path) -> Result<Experiment, TargetError> {
        match self {
            Self::Experiment(experiment) => Ok(experiment),
            Self::Prepared(folder) => Err(match folder.fault() {
                Some(error) => error.into(),
                None => TargetError::Prepared(path.to_owned()),
            }),
            Self::Checkpoint(_) => Err(TargetError::Checkpoint(path.to_owned())),
            Self::Foreign(_) => Err(TargetError::Exported(path.to_owned())),
        }
    }
}

/// The synthetic model that a target is.
fn synthetic(path: &Path) -> Option<ModelId> {
    let shape = path.to_str()?.strip_prefix("synthetic/")?;
    Some(ModelId::Synthetic(shape.to_owned()))
}

/// The hub id that a target is, where it can't be a mistyped path: only one that names its revision
/// begins as a folder that is here.
fn hub_id(path: &Path) -> Option<HubId> {
    let text = path.to_str()?;
    let id = HubId::parse(text).ok()?;
    let may_be = id.revision.is_some() || !begins_as_folder(path);
    (may_be && !path.exists()).then_some(id)
}
