//! The benchmark's parameters: `default_benchmark_params.json`, and an experiment's
//! `benchmark_params.json` that overrides single keys of it.
//!
//! The keys are those of PEFT's text generation benchmark, and others that may be absent: `batch_size`, `task_id`, and
//! three on quantization. Three rules differ from it:
//!
//! - A key that starts with `_` is a comment; any other unknown key is an error.
//! - Overrides are merged key by key, nested ones too.
//! - An override of `max_new_tokens` alone applies to every category. In PEFT's benchmark the
//!   defaults' category values silently win over it.

mod error;
mod params;
mod quantization;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::prompts::Category;
use crate::quantize::{Format, Quantization};
use crate::weights::Dtype;
pub use error::ConfigError;
use params::Params;
pub use quantization::{EMBEDDINGS, HEADS, QuantizationKeys};

const EMBEDDED: &str = include_str!("../default_benchmark_params.json");

/// What an error calls the defaults that are part of the program.
const EMBEDDED_NAME: &str = "default_benchmark_params.json (built in)";

/// Where the defaults come from.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// The `default_benchmark_params.json` that this program was built with.
    Embedded,
    /// A file in its place.
    File(&'a Path),
}

/// The resolved parameters of one benchmark.
#[derive(Debug, Clone, PartialEq)]
pub struct BenchmarkConfig {
    /// A hub id, a folder, or `synthetic/<shape>`.
    pub model_id: String,
    /// The type that weights are measured in.
    pub dtype: Dtype,
    /// Seed of whatever is drawn, such as the tensors of a fresh adapter.
    pub seed: u64,
    /// New tokens a generation, for a category without a value of its own.
    pub max_new_tokens: usize,
    /// Measured generations a prompt; warm-up runs aren't counted.
    pub num_inference_runs: usize,
    /// Prompts taken from each category.
    pub num_prompt_samples: usize,
    /// Sequences that are generated at once. There is at least one size; the first is that of the main figures.
    pub batch_sizes: Vec<usize>,
    /// The task of an adapter that has several; `None` for the first, and where there are none.
    pub task_id: Option<usize>,
    /// What's said on quantization; [`BenchmarkConfig::quantization`] is what it comes to.
    pub quantization_keys: QuantizationKeys,
    /// New tokens a generation, by category.
    pub category_max_new_tokens: BTreeMap<Category, usize>,
}

impl BenchmarkConfig {
    /// Reads the defaults, then applies the experiment's `overrides`, if there are any.
    ///
    /// # Errors
    /// If a file can't be read, a key is unknown, or a value has a wrong type or is out of range;
    /// the error names the file, the key and what's allowed.
    pub fn load(defaults: Source<'_>, overrides: Option<&Path>) -> Result<Self, ConfigError> {
        let defaults = match defaults {
            Source::Embedded => Params::parse(EMBEDDED_NAME, EMBEDDED)?,
            Source::File(path) => Params::read(path)?,
        };
        match overrides {
            Some(path) => Self::resolve(defaults, Params::read(path)?),
            None => Self::resolve(defaults, Params::default()),
        }
    }

    /// The number of new tokens for each prompt of `category`.
    #[must_use]
    pub fn max_new_tokens_for(&self, category: Category) -> usize {
        self.category_max_new_tokens
            .get(&category)
            .copied()
            .unwrap_or(self.max_new_tokens)
    }

    /// How the model is quantized, if it is.
    ///
    /// # Errors
    /// If keys contradict each other, or one would do nothing.
    pub fn quantization(&self) -> Result<Option<Quantization>, ConfigError> {
        self.quantization_keys.resolve()
    }

    /// The resolved parameters under PEFT's key names, for the result file.
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
        let keys = self.quantization_keys;
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
            "use_4bit": keys.use_4bit.unwrap_or(false),
            "use_8bit": keys.use_8bit.unwrap_or(false),
            "category_generation_params": categories,
        });
        if let Some(found) = self.quantization().ok().flatten() {
            let scheme = if found.weights == Format::Nf4 {
                "nf4"
            } else {
                "rtn"
            };
            all["quantization_scheme"] = json!(scheme);
            let name = |format: Option<Format>| json!(format.map_or("float", Format::name));
            all["quantization_head"] = name(found.head);
            all["quantization_embedding"] = name(found.embedding);
            if found.has_accuracy() {
                all["quantization_accuracy_level"] = json!(found.accuracy.level());
            }
        }
        all
    }

    fn resolve(defaults: Params, overrides: Params) -> Result<Self, ConfigError> {
        // The override's own `max_new_tokens` outranks the defaults' category values, and the
        // override's category values outrank both.
        let mut categories = defaults.categories;
        if overrides.max_new_tokens.is_some() {
            categories.clear();
        }
        categories.extend(overrides.categories);

        let file = &defaults.file;
        Ok(Self {
            model_id: either(overrides.model_id, defaults.model_id, file, "model_id")?,
            dtype: either(overrides.dtype, defaults.dtype, file, "dtype")?,
            seed: either(overrides.seed, defaults.seed, file, "seed")?,
            max_new_tokens: either(
                overrides.max_new_tokens,
                defaults.max_new_tokens,
                file,
                "max_new_tokens",
            )?,
            num_inference_runs: either(
                overrides.num_inference_runs,
                defaults.num_inference_runs,
                file,
                "num_inference_runs",
            )?,
            num_prompt_samples: either(
                overrides.num_prompt_samples,
                defaults.num_prompt_samples,
                file,
                "num_prompt_samples",
            )?,
            batch_sizes: overrides
                .batch_sizes
                .or(defaults.batch_sizes)
                .unwrap_or_else(|| vec![1]),
            task_id: overrides.task_id.or(defaults.task_id),
            quantization_keys: overrides.quantization.or(defaults.quantization),
            category_max_new_tokens: categories,
        })
    }
}

/// The overriding value of `key`, or else the default, which only `file` could have given.
fn either<T>(
    overriding: Option<T>,
    default: Option<T>,
    file: &str,
    key: &'static str,
) -> Result<T, ConfigError> {
    overriding.or(default).ok_or_else(|| ConfigError::Missing {
        file: file.to_owned(),
        key,
    })
}

#[cfg(test)]
mod tests;
