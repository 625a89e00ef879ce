//! The parameters that a case is measured with: the defaults, an experiment's overrides, then the
//! settings.

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::named_base::{NamedBaseError, named_base};
use super::observer::Note;
use super::setup::Setup;
use crate::adapter::folder::CONFIG;
use crate::config::{self, BenchmarkConfig, DefaultsSource};
use crate::experiment::Experiment;
use crate::experiment::check::PARAMS;
use crate::json::{self, JsonObject};

/// The file of defaults, in the working folder.
const DEFAULTS: &str = "default_benchmark_params.json";

/// The task that every model is run for.
const TASK: &str = "CAUSAL_LM";

/// Parameters that can't be used.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum StudyParametersError {
    #[error(transparent)]
    Parameters(#[from] config::ParametersError),
    #[error(transparent)]
    Adapter(#[from] json::ConfigError),
    #[error(transparent)]
    NamedBase(#[from] NamedBaseError),
}

/// The file of the experiment's own parameters, if it's there.
fn own_file(experiment: &Experiment) -> Option<PathBuf> {
    Some(experiment.folder.join(PARAMS)).filter(|path| path.is_file())
}

impl Setup<'_> {
    /// Reads the parameters. The base is that of the settings, else of the experiment's overrides,
    /// else the one that the adapter names, else that of the defaults.
    ///
    /// # Errors
    /// If a file can't be read or parameters contradict each other, or a trained adapter's base
    /// can't be told.
    pub fn parameters(
        &self,
        experiment: Option<&Experiment>,
    ) -> Result<BenchmarkConfig, StudyParametersError> {
        let settings = self.settings;
        let here = Path::new(DEFAULTS);
        let defaults = match &settings.parameters {
            Some(file) => DefaultsSource::File(file),
            None if here.is_file() => DefaultsSource::File(here),
            None => DefaultsSource::Embedded,
        };
        let overrides = experiment.and_then(own_file);
        let note = |text: &str| self.note(Note::ParameterIgnored(text));
        let mut config = BenchmarkConfig::load(defaults, overrides.as_deref(), &note)?;
        let own = overrides.as_deref().map(BenchmarkConfig::own_model);
        let own = own.transpose()?.flatten();
        if let Some(model) = &settings.model {
            config.model_id.clone_from(model);
        } else if own.is_none()
            && let Some(experiment) = experiment
            && let Some(named) = named_base(experiment)?
        {
            config.model_id = named;
        }
        if let Some(experiment) = experiment {
            self.note_use(experiment, &config)?;
        }
        if let Some(dtype) = settings.dtype {
            config.dtype = dtype;
        }
        config.mla = settings.mla.or(config.mla);
        let keys = &mut config.quantization_keys;
        if let Some(weights) = settings.quantize {
            keys.set(weights.format());
        }
        keys.scheme = settings.quantize_algorithm.or(keys.scheme);
        keys.block_size = settings.quantize_block.or(keys.block_size);
        keys.head = settings.quantize_head.or(keys.head);
        keys.kv_proj = settings.quantize_kv_proj.or(keys.kv_proj);
        keys.embedding = settings.quantize_embedding.or(keys.embedding);
        keys.accuracy = settings.quantize_accuracy.or(keys.accuracy);
        config.quantization()?;
        Ok(config)
    }

    /// Whether nothing names the base of `experiment`, so that it's used with the default one.
    ///
    /// # Errors
    /// As [`parameters`](Self::parameters).
    pub fn has_default_base(&self, experiment: &Experiment) -> Result<bool, StudyParametersError> {
        let own = own_file(experiment).map(|path| BenchmarkConfig::own_model(&path));
        let own = own.transpose()?.flatten();
        let names_one = self.settings.model.is_some() || own.is_some();
        Ok(!names_one && named_base(experiment)?.is_none())
    }

    /// Notes where an adapter was made for another base model than the one it's used with, or for
    /// another task. Names differ for good reasons too (a local copy, a synthetic stand-in), so
    /// it's no error; tensors that don't fit are.
    fn note_use(
        &self,
        experiment: &Experiment,
        config: &BenchmarkConfig,
    ) -> Result<(), json::ConfigError> {
        let adapter = JsonObject::read(&experiment.folder.join(CONFIG))?;
        let last = |name: &str| {
            let name = name
                .trim_end_matches('/')
                .rsplit('/')
                .next()
                .unwrap_or(name);
            name.split('@').next().unwrap_or(name).to_lowercase()
        };
        match adapter.optional_text("base_model_name_or_path")? {
            Some(named) if !named.is_empty() && last(named) != last(&config.model_id) => {
                let used = &config.model_id;
                self.note(Note::OtherBase { named, used });
            }
            _ => {}
        }
        match adapter.optional_text("task_type")? {
            Some(named) if named != TASK => self.note(Note::OtherTask { named, used: TASK }),
            _ => {}
        }
        Ok(())
    }
}
