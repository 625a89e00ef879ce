//! The benchmark's parameters: `default_benchmark_params.json`, and an experiment's
//! `benchmark_params.json` that overrides single keys of it.
//!
//! The keys are those of PEFT's text generation benchmark, whose own file of defaults can be used
//! here too, and some more: `batch_size`, `task_id`, and five for quantization. A key that a file
//! lacks has its built-in default. Three rules differ from PEFT's:
//!
//! - A key that starts with `_` is a comment; any other unknown key is an error. Keys of PEFT's
//!   that have no meaning here are accepted, with a note.
//! - Overrides are merged key by key, also in nested objects.
//! - An override of only `max_new_tokens` applies to every category. In PEFT's benchmark, the
//!   categories' values in the defaults silently win over it.

mod error;
mod params;
mod quantization;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::arch::LatentCache;
use crate::prompts::Category;
use crate::quantize::{Format, Quantization, Switch};
use crate::weights::Dtype;
pub use error::ParametersError;
use params::Params;
pub use quantization::QuantizationKeys;

const EMBEDDED: &str = include_str!("../default_benchmark_params.json");

/// The name of the built-in defaults in errors.
const EMBEDDED_NAME: &str = "default_benchmark_params.json (built in)";

/// Where the defaults come from.
#[derive(Debug, Clone, Copy)]
pub enum DefaultsSource<'a> {
    /// The `default_benchmark_params.json` that's built into the program.
    Embedded,
    /// A file that replaces it.
    File(&'a Path),
}

/// The resolved parameters of one benchmark.
#[derive(Debug, Clone, PartialEq)]
pub struct BenchmarkConfig {
    /// A hub id, a folder, or `synthetic/<shape>`.
    pub model_id: String,
    /// The dtype of the measured weights.
    pub dtype: Dtype,
    /// Seed of everything that's drawn at random, such as the tensors of a fresh adapter.
    pub seed: u64,
    /// New tokens per generation, for categories without a value of their own.
    pub max_new_tokens: usize,
    /// Measured generations per prompt, without warm-up runs.
    pub num_inference_runs: usize,
    /// Prompts taken from each category.
    pub num_prompt_samples: usize,
    /// Batch sizes to measure, at least one; the main figures are of the first.
    pub batch_sizes: Vec<usize>,
    /// The task to use, for adapters with several tasks; `None` is the first.
    pub task_id: Option<usize>,
    /// What the cache of latent attention holds; `None` where nothing asks for one or the other.
    pub mla: Option<LatentCache>,
    /// The keys on quantization; [`BenchmarkConfig::quantization`] resolves them.
    pub quantization_keys: QuantizationKeys,
    /// New tokens per generation, by category.
    pub category_max_new_tokens: BTreeMap<Category, usize>,
}

impl BenchmarkConfig {
    /// Reads the defaults, completed by the built-in ones, and then applies the experiment's
    /// `overrides`, if given. `note` receives a message for each key that's accepted but does
    /// nothing here.
    ///
    /// # Errors
    /// If a file can't be read, a key is unknown, or a value has a wrong type or is out of range;
    /// the error names the file, the key and what's allowed.
    pub fn load(
        defaults: DefaultsSource<'_>,
        overrides: Option<&Path>,
        note: &dyn Fn(&str),
    ) -> Result<Self, ParametersError> {
        let mut params = Params::parse(EMBEDDED_NAME, EMBEDDED, note)?;
        let defaults = match defaults {
            DefaultsSource::Embedded => None,
            DefaultsSource::File(path) => Some(path),
        };
        for path in defaults.into_iter().chain(overrides) {
            params = Params::read(path, note)?.over(params);
        }
        Self::resolve(params)
    }

    /// The built-in defaults.
    #[must_use]
    pub fn built_in() -> Self {
        Self::load(DefaultsSource::Embedded, None, &|_| {})
            .expect("a test reads the built-in parameters")
    }

    /// The base model that the file `overrides` names, if it does.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn own_model(overrides: &Path) -> Result<Option<String>, ParametersError> {
        Ok(Params::read(overrides, &|_| {})?.model_id)
    }

    /// New tokens per prompt of `category`.
    #[must_use]
    pub fn max_new_tokens_for(&self, category: Category) -> usize {
        self.category_max_new_tokens
            .get(&category)
            .copied()
            .unwrap_or(self.max_new_tokens)
    }

    /// How the model is quantized; `None` if it isn't.
    ///
    /// # Errors
    /// If keys contradict each other, or one would have no effect.
    pub fn quantization(&self) -> Result<Option<Quantization>, ParametersError> {
        self.quantization_keys.resolve()
    }

    /// The resolved parameters with PEFT's key names, for the result file.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let categories: Map<String, Value> = Category::ALL
            .iter()
            .map(|&category| {
                let new_tokens = self.max_new_tokens_for(category);
                (
                    category.to_string(),
                    json!({ "max_new_tokens": new_tokens }),
                )
            })
            .collect();
        let quantization = self.quantization().ok().flatten();
        let switch = quantization.and_then(|found| found.weights.keys().switch);
        let mut all = json!({
            "model_id": self.model_id,
            "dtype": self.dtype.to_string(),
            "seed": self.seed,
            "max_new_tokens": self.max_new_tokens,
            "num_inference_runs": self.num_inference_runs,
            "num_prompt_samples": self.num_prompt_samples,
            "batch_size": match self.batch_sizes.as_slice() {
                [single] => json!(single),
                several => json!(several),
            },
            "task_id": self.task_id,
            "use_4bit": switch == Some(Switch::Use4Bit),
            "use_8bit": switch == Some(Switch::Use8Bit),
            "category_generation_params": categories,
        });
        if let Some(cache) = self.mla {
            all["mla"] = json!(cache.name());
        }
        if let Some(found) = quantization {
            all["quantization_scheme"] = json!(found.weights.keys().scheme);
            if !Format::NAMED.contains(&found.weights) {
                let size = found.weights.encoding().block_size();
                all["quantization_block_size"] = json!(size);
            }
            let name = |format: Option<Format>| json!(format.map_or("float", Format::name));
            all["quantization_head"] = name(found.head);
            all["quantization_kv_proj"] = name(found.kv_proj.or(Some(found.weights)));
            all["quantization_embedding"] = name(found.embedding);
            if found.has_accuracy() {
                all["quantization_accuracy_level"] = json!(found.accuracy.level());
            }
        }
        all
    }

    fn resolve(params: Params) -> Result<Self, ParametersError> {
        Ok(Self {
            model_id: given(params.model_id, "model_id")?,
            dtype: given(params.dtype, "dtype")?,
            seed: given(params.seed, "seed")?,
            max_new_tokens: given(params.max_new_tokens, "max_new_tokens")?,
            num_inference_runs: given(params.num_inference_runs, "num_inference_runs")?,
            num_prompt_samples: given(params.num_prompt_samples, "num_prompt_samples")?,
            batch_sizes: given(params.batch_sizes, "batch_size")?,
            task_id: params.task_id,
            mla: params.mla,
            quantization_keys: params.quantization,
            category_max_new_tokens: params.categories,
        })
    }
}

/// The value of `key`, which at least the built-in defaults have.
fn given<T>(value: Option<T>, key: &'static str) -> Result<T, ParametersError> {
    value.ok_or(ParametersError::Missing {
        file: EMBEDDED_NAME,
        key,
    })
}

#[cfg(test)]
mod tests;
