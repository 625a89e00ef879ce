//! What a job is expected to take, from sizes alone. Nothing is loaded.

use super::job::Estimate;
use crate::config::BenchmarkConfig;
use crate::model::BaseModel;
use crate::prompts::Category;
use crate::study::Study;
use crate::weights::Dtype;

/// Bytes of weights that a decode step is taken to read in a second on a CPU, and on a GPU.
const RATES: [f64; 2] = [10e9, 1e12];
/// Multiplications and additions of a prompt that are taken to be done in a second.
const ARITHMETIC: [f64; 2] = [100e9, 50e12];
/// Bytes that a merge or an export is taken to write in a second.
const WRITTEN: f64 = 200e6;
/// Memory of a process without weights and cache.
const PROCESS: u64 = 120 << 20;
/// A graph, a manifest, a result, an attempt's log.
const SMALL_FILES: u64 = 3 << 20;
/// Starting processes, comparing variants, computing intervals.
const FIXED_SECONDS: f64 = 3.0;
/// Tokens of the built-in prompts.
const PROMPT_TOKENS: [(Category, f64); 3] = [
    (Category::Short, 15.0),
    (Category::Medium, 123.0),
    (Category::Long, 474.0),
];

/// Sizes of a base model.
#[derive(Debug, Clone, Copy, Default)]
pub struct BaseSize {
    /// Distinct parameters.
    pub parameters: u64,
    /// Elements of keys and values that a token adds to the cache.
    pub cache_per_token: u64,
}

impl BaseSize {
    /// The sizes of `base`.
    ///
    /// # Errors
    /// If a tensor is missing.
    pub fn of(base: &BaseModel) -> Result<Self, crate::weights::WeightsError> {
        let config = base.config.json();
        let text = config.get("text_config").unwrap_or(config);
        let number = |names: &[&str]| names.iter().find_map(|name| text.get(*name)?.as_u64());
        let layers = number(&["num_hidden_layers", "n_layer", "num_layers", "n_layers"]);
        let heads = number(&["num_attention_heads", "n_head", "n_heads"]);
        let width = number(&["hidden_size", "n_embd", "d_model"]);
        let kv_heads = number(&["num_key_value_heads"]).or(heads);
        let head_dim = number(&["head_dim"]).or_else(|| width?.checked_div(heads?));
        let cache = || Some(2 * layers? * kv_heads? * head_dim?);
        Ok(Self {
            parameters: base.size()?.parameters as u64,
            cache_per_token: cache().unwrap_or_default(),
        })
    }

    /// Bytes of the weights as they're computed with.
    pub fn weight_bytes(&self, config: &BenchmarkConfig, on_gpu: bool) -> u64 {
        let quantization = config.quantization().ok().flatten();
        let bits = quantization.map(|found| found.weights.encoding().bits());
        let bytes = match (bits, on_gpu) {
            (Some(8), _) => 1.1,
            (Some(_), _) => 0.6,
            // On a CPU, weights are rounded to 16 bits and computed with in float32.
            (None, false) => 4.0,
            (None, true) if config.dtype == Dtype::Float32 => 4.0,
            (None, true) => 2.0,
        };
        (self.parameters as f64 * bytes) as u64
    }

    /// What a job takes that measures `study` with `config` on this base.
    pub fn estimate(&self, study: &Study, config: &BenchmarkConfig, on_gpu: bool) -> Estimate {
        let place = usize::from(on_gpu);
        let weights = self.weight_bytes(config, on_gpu);
        let batches: f64 = config.batch_sizes.iter().map(|&size| size as f64).sum();
        let largest = config.batch_sizes.iter().copied().max().unwrap_or(1) as u64;
        let subjects = 3 + usize::from(study.aa) + usize::from(study.empty);
        let runs = study.restarts.max(1) * (config.num_inference_runs + 1);
        let mut once = 0.0;
        let mut longest = 0.0_f64;
        for (category, prompt) in PROMPT_TOKENS {
            let new = config.max_new_tokens_for(category) as f64;
            let prefill = 2.0 * self.parameters as f64 * prompt / ARITHMETIC[place];
            let steps = new * weights as f64 / RATES[place];
            once += (prefill * batches + steps * config.batch_sizes.len() as f64)
                * config.num_prompt_samples as f64;
            longest = longest.max(prompt + new);
        }
        let cache = self.cache_per_token * 4 * longest as u64 * largest;
        // A merge writes at most all weights, in the checkpoint's type.
        let merged = self.parameters * config.dtype.size() as u64 / 2;
        // On a CPU, base and unmerged map the same file.
        let copies = if on_gpu { subjects as u64 } else { 2 };
        let shared = weights;
        Estimate {
            seconds: FIXED_SECONDS
                + once * (subjects * runs) as f64
                + (merged + shared) as f64 / WRITTEN,
            memory_bytes: weights * copies + (cache + PROCESS) * subjects as u64,
            disk_bytes: merged + SMALL_FILES,
            shared_disk_bytes: shared,
        }
    }
}
