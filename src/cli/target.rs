//! What a command's argument names: an experiment, a prepared folder, or a Hugging Face checkpoint.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::options::CommonOptions;
use super::progress::{ByteProgress, message};
use crate::adapter::Values;
use crate::adapter::fetch_adapter;
use crate::adapter::folder::{CONFIG, has_weights};
use crate::advice::shell_word;
use crate::experiment::{Experiment, begins_as_folder, folder_of};
use crate::model::ModelId;
use crate::model::hub::{DownloadProgress, HubId, HubSettings};
use crate::prepared::{Manifest, Variant};
use crate::weights::TensorStore;

/// What a command's argument names.
#[derive(Debug)]
pub enum Target {
    /// An adapter.
    Experiment(Experiment),
    /// A folder of `exported_models`: one with variants below it, or one variant.
    Prepared(PathBuf),
    /// A base model's or a merged checkpoint's folder, or its hub id.
    Checkpoint(ModelId),
}

impl Target {
    /// Looks at what's there, else asks the hub.
    ///
    /// # Errors
    /// If it's none of the three, or is an adapter that can't be used.
    pub fn find(common: &CommonOptions, path: &Path) -> Result<Self> {
        let found = match Self::local(common, path)? {
            Some(found) => found,
            None => match hub_id(path) {
                Some(id) => Self::on_hub(common, &id)?,
                None => Self::Experiment(Experiment::find_with(path, common.values())?),
            },
        };
        let adapter = matches!(found, Self::Experiment(_));
        match common.values() {
            Values::Fresh if !adapter => bail!(
                "`--fresh` goes with an adapter's folder, and `{}` is {}",
                path.display(),
                found.in_words()
            ),
            Values::Trained if !adapter => bail!(
                "`--trained` goes with an adapter's folder, and `{}` is {}",
                path.display(),
                found.in_words()
            ),
            _ => Ok(found),
        }
    }

    /// What a folder is; `None` where there's none.
    fn local(common: &CommonOptions, path: &Path) -> Result<Option<Self>> {
        let values = common.values();
        let has = |name: &str| path.join(name).symlink_metadata().is_ok();
        if has(CONFIG) {
            let is_model = has("config.json") && TensorStore::is_in(path);
            if is_model && !has_weights(path) && values == Values::AsFound {
                message(&format!(
                    "note: `{}` is a checkpoint, and no adapter's weights lie beside its `{CONFIG}`, which is passed over",
                    path.display()
                ));
                return Ok(Some(Self::Checkpoint(ModelId::Local(path.to_owned()))));
            }
            if is_model {
                message(&format!(
                    "note: `{}` holds an adapter and a whole model, and it's taken for the adapter; without its `{CONFIG}` \
                     it's the model",
                    path.display()
                ));
            }
            return Ok(Some(Self::Experiment(Experiment::at(path, values)?)));
        }
        let variants = [Variant::Base, Variant::Merged, Variant::Unmerged];
        let manifest = |variant: &Variant| path.join(variant.name()).join(Manifest::FILE).is_file();
        if has(Manifest::FILE) || variants.iter().any(manifest) {
            return Ok(Some(Self::Prepared(path.to_owned())));
        }
        if has("config.json") {
            return Ok(Some(Self::Checkpoint(ModelId::Local(path.to_owned()))));
        }
        match folder_of(path) {
            Some(folder) => Ok(Some(Self::Experiment(Experiment::at(&folder, values)?))),
            None => Ok(None),
        }
    }

    /// What the hub has under `id`.
    fn on_hub(common: &CommonOptions, id: &HubId) -> Result<Self> {
        let mut settings = HubSettings::from_env();
        settings.offline |= common.offline;
        let progress = ByteProgress::default();
        let report = |report: DownloadProgress| {
            let label = format!("downloading {}", report.file);
            progress.report(&label, report.done_bytes, report.total_bytes);
        };
        let values = common.values();
        let fetched = fetch_adapter(id, values == Values::Fresh, &settings, &report);
        progress.finish();
        let fetched = fetched
            .with_context(|| format!("`{id}` is no folder here, and was looked for on the hub"))?;
        let Some(folder) = fetched else {
            return Ok(Self::Checkpoint(ModelId::Hub(id.clone())));
        };
        if common.verbose {
            message(&format!("adapter {id} in {}", folder.display()));
        }
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
        }
    }

    /// The adapter, where the command needs one.
    ///
    /// # Errors
    /// If it's something else.
    pub fn into_experiment(self, path: &Path) -> Result<Experiment> {
        match self {
            Self::Experiment(experiment) => Ok(experiment),
            Self::Prepared(_) => bail!(
                "`{}` is not an experiment: it's prepared already, `peft-bench measure` and `generate` take it",
                path.display()
            ),
            Self::Checkpoint(_) => bail!(
                "`{path}` is not an experiment: it's a checkpoint without `{CONFIG}`, `peft-bench measure {word} --model BASE` \
                 measures it against its base",
                path = path.display(),
                word = shell_word(path)
            ),
        }
    }
}

/// The hub id that an argument is, where it can't be a mistyped path: only one that names its revision begins as a folder
/// that is here.
fn hub_id(path: &Path) -> Option<HubId> {
    let text = path.to_str()?;
    let id = HubId::parse(text).ok()?;
    let may_be = id.revision.is_some() || !begins_as_folder(path);
    (may_be && !path.exists()).then_some(id)
}
