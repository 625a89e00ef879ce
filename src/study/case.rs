//! A case: a target with the parameters that it's measured with. It gets a result of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::prepare_case;
use super::prepared_folder::PreparedFolder;
use super::setup::Setup;
use super::target::Target;
use super::{Study, StudyError, task};
use crate::config::{BenchmarkConfig, QuantizationKeys};
use crate::experiment::Experiment;
use crate::file_names;
use crate::foreign::is_for_genai;
use crate::measure::record::SubjectRecord;
use crate::model::TextTokenizer;
use crate::onnxruntime::Provider;
use crate::prepared::{Manifest, PreparedVariant, Variant, task_of};

/// What the base by itself is called.
const BASE: &str = "base";

/// A target with its parameters.
pub struct Case {
    /// The target, as it was named.
    pub name: String,
    /// What it's called: `<method>--<name>`.
    pub stem: String,
    /// What it's called in the result's name, where others with the same stem are told apart.
    pub result_stem: String,
    /// The parameters.
    pub config: BenchmarkConfig,
    /// What's measured; `None` for the base by itself.
    target: Option<Target>,
    /// The folder of its adapter's own tokenizer, if texts go through that.
    tokenizer: Option<PathBuf>,
}

/// A case whose variants are ready to run.
#[derive(Debug)]
pub struct PreparedCase {
    /// What it's called: `<method>--<name>`.
    pub stem: String,
    /// What it's called in the result's name.
    pub result_stem: String,
    /// What it's called in the table, where several are measured together.
    pub label: String,
    /// Whether it's an experiment.
    pub is_experiment: bool,
    /// The base among them.
    pub variants: Vec<PreparedVariant>,
    /// Variants that don't exist, with the reason.
    pub absent: BTreeMap<Variant, String>,
}

impl Case {
    /// Finds a target, and the parameters that it's measured with.
    pub fn find(study: &Study, setup: &Setup, path: &Path) -> Result<Self, StudyError> {
        let target = match Target::find(setup, path)? {
            // A portable folder is measured as it's deployed, by ONNX Runtime alone.
            Target::Prepared(_) if is_for_genai(path) => Target::exported(path)?,
            target => target,
        };
        let experiment = match &target {
            Target::Experiment(experiment) => Some(experiment),
            Target::Prepared(_) | Target::Checkpoint(_) | Target::Foreign(_) => None,
        };
        let mut config = setup.parameters(experiment)?;
        match &target {
            Target::Experiment(_) => config.task_id = study.task_id.or(config.task_id),
            Target::Prepared(folder) => {
                if let Some(main) = folder.main() {
                    task::check_prepared(study.task_id, &main.manifest)?;
                }
                config = prepared_with(folder, config);
            }
            Target::Checkpoint(id) => {
                if study.settings.model.is_none() {
                    config.model_id = id.to_string();
                }
                task::check_variants(study.task_id, &[Variant::Base])?;
            }
            Target::Foreign(found) => {
                if study.settings.model.is_none() {
                    config.model_id.clone_from(&found.manifest.model_id);
                    config.dtype = found.manifest.dtype;
                }
                task::check_variants(study.task_id, &[Variant::Base])?;
            }
        }
        study.choose_batches(&mut config);
        let own = |experiment: &Experiment| study.tokenizer.own(&experiment.folder);
        let (stem, result_stem) = names(&target, path);
        Ok(Self {
            name: path.display().to_string(),
            stem,
            result_stem,
            config,
            tokenizer: experiment.and_then(own),
            target: Some(target),
        })
    }

    /// The base by itself.
    pub fn base(study: &Study, setup: &Setup) -> Result<Self, StudyError> {
        let mut config = setup.parameters(None)?;
        study.choose_batches(&mut config);
        Ok(Self {
            name: BASE.to_owned(),
            stem: BASE.to_owned(),
            result_stem: BASE.to_owned(),
            config,
            target: None,
            tokenizer: None,
        })
    }

    /// Whether it's an experiment.
    pub fn is_experiment(&self) -> bool {
        matches!(self.target, Some(Target::Experiment(_)))
    }

    /// Whether it's graphs that are run as they are.
    pub fn is_foreign(&self) -> bool {
        matches!(self.target, Some(Target::Foreign(_)))
    }

    /// Whether it's the same graphs as `other`, named twice.
    pub fn is_same(&self, other: &Self) -> bool {
        self.is_foreign() && other.is_foreign() && self.result_stem == other.result_stem
    }

    /// Whether it's an experiment like `other`, with the same parameters and a result of its own,
    /// so that both can be measured together.
    pub fn goes_with(&self, other: &Self) -> bool {
        self.is_experiment()
            && other.is_experiment()
            && self.config == other.config
            && self.stem != other.stem
            && alike(self.tokenizer.as_deref(), other.tokenizer.as_deref())
    }

    /// Makes its variants ready to run; `label` is what it's called in the table.
    pub fn prepare(
        &self,
        study: &Study,
        setup: &Setup,
        provider: Provider,
        label: String,
    ) -> Result<PreparedCase, StudyError> {
        let config = &self.config;
        let mut absent = BTreeMap::new();
        let variants = match &self.target {
            None => vec![prepare_case::base(study, setup, provider, config)?],
            Some(Target::Experiment(experiment)) => {
                let (variants, refusal) =
                    prepare_case::experiment(study, setup, provider, experiment, config)?;
                absent.extend(refusal.map(|reason| (Variant::Merged, reason)));
                variants
            }
            Some(Target::Prepared(folder)) => prepare_case::folder(provider, folder)?,
            Some(Target::Checkpoint(id)) => {
                prepare_case::checkpoint(study, setup, provider, id, config)?
            }
            Some(Target::Foreign(found)) => {
                prepare_case::foreign(study, setup, provider, found, config)?
            }
        };
        Ok(PreparedCase {
            stem: self.stem.clone(),
            result_stem: self.result_stem.clone(),
            label,
            is_experiment: self.is_experiment(),
            variants,
            absent,
        })
    }
}

impl PreparedCase {
    /// The manifests of its variants.
    pub fn manifests(&self) -> BTreeMap<Variant, Manifest> {
        let variants = self.variants.iter().map(|one| &one.manifest);
        variants.map(|m| (m.variant, m.clone())).collect()
    }

    /// Its unmerged variant.
    pub fn unmerged(&self) -> Option<&PreparedVariant> {
        let mut variants = self.variants.iter();
        variants.find(|one| one.manifest.variant == Variant::Unmerged)
    }

    /// Its own among `records`, and the base's.
    pub fn records(&self, records: &[SubjectRecord]) -> Vec<SubjectRecord> {
        let own = |record: &&SubjectRecord| {
            let experiment = record.experiment.as_ref();
            experiment.is_none_or(|experiment| *experiment == self.label)
        };
        records.iter().filter(own).cloned().collect()
    }
}

/// `config` with the parameters that `folder` was prepared with.
fn prepared_with(folder: &PreparedFolder, config: BenchmarkConfig) -> BenchmarkConfig {
    let variants = folder.variants();
    let Some(first) = variants.first() else {
        return config;
    };
    let manifest = &first.manifest;
    BenchmarkConfig {
        model_id: manifest.model_id.clone(),
        dtype: manifest.dtype,
        task_id: task_of(&variants).map(|task| task.id),
        mla: manifest.mla,
        quantization_keys: QuantizationKeys::of(manifest.quantization()),
        ..config
    }
}

/// Whether texts give the same with both tokenizers; `None` is the base's.
fn alike(one: Option<&Path>, other: Option<&Path>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => {
            let opened = TextTokenizer::open(one)
                .ok()
                .zip(TextTokenizer::open(other).ok());
            opened.is_some_and(|(one, other)| one.is_like(&other))
        }
        _ => false,
    }
}

/// What `target` is called, and what it's called in the name of its result.
fn names(target: &Target, path: &Path) -> (String, String) {
    let name = || {
        let full = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let name = full
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        name.unwrap_or_else(|| "model".to_owned())
    };
    match target {
        Target::Experiment(experiment) => (experiment.file_stem(), experiment.file_name()),
        Target::Prepared(folder) => {
            let stem = folder
                .experiment()
                .map_or_else(|| format!("prepared--{}", name()), str::to_owned);
            let result_stem = file_names::of_place(&stem, folder.folder());
            (stem, result_stem)
        }
        Target::Foreign(_) => {
            let stem = format!("exported--{}", name());
            let result_stem = file_names::of_place(&stem, path);
            (stem, result_stem)
        }
        Target::Checkpoint(id) => (
            format!("checkpoint--{}", name()),
            format!("checkpoint--{}", file_names::of_model(id)),
        ),
    }
}
