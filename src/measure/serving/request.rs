//! What is asked of a worker that measures serving, and its answer.

use std::error::Error;

use serde::{Deserialize, Serialize};

use super::cold::ColdTimes;
use super::mixed::{MixedForm, MixedTimes};
use super::shared_prefix::{CacheOf, SharedPrefixTimes};
use super::{cold_worker, mixed_worker, prefix_worker};
use crate::engine::EngineOptions;
use crate::onnxruntime::library::Library;
use crate::prepared::PreparedVariant;

/// A request to measure something of serving.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServingRequest {
    /// ONNX Runtime.
    pub library: Library,
    /// How sessions are opened. The number of sequences and the length are set for each.
    pub options: EngineOptions,
    /// The base, if it's prepared.
    pub base: Option<PreparedVariant>,
    /// The unmerged variant.
    pub unmerged: PreparedVariant,
    /// Token ids of the prompt.
    pub prompt_ids: Vec<u32>,
    /// Tokens to generate.
    pub new_tokens: usize,
    /// Rounds that are measured.
    pub rounds: usize,
    /// Draws the order.
    pub seed: u64,
    /// What's measured.
    pub asked: Asked,
}

/// What's measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    /// Several adapters in one batch.
    Mixed(MixedPlan),
    /// An adapter from its file to its first token; the other one is used before each start.
    Cold(Box<PreparedVariant>),
    /// Prompts that begin alike.
    SharedPrefix(PrefixPlan),
}

/// Prompts that begin alike.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PrefixPlan {
    /// Whose cache the adapter's prompts take.
    pub cache_of: CacheOf,
    /// By length of the prefix, in ascending order.
    pub lengths: Vec<PromptsOfPrefix>,
    /// Lengths that the model has no positions for.
    pub left_out: Vec<usize>,
}

/// The prompts that begin with a prefix.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PromptsOfPrefix {
    /// The prefix.
    pub prefix: Vec<u32>,
    /// The base's prompts.
    pub base: Vec<Vec<u32>>,
    /// The adapter's.
    pub unmerged: Vec<Vec<u32>>,
}

/// Several adapters in one batch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MixedPlan {
    /// The adapters after the unmerged variant's own.
    pub others: Vec<PreparedVariant>,
    /// Where all adapters come from, one name each.
    pub names: Vec<String>,
    /// Rows of the batch, at least one for each adapter.
    pub rows: usize,
    /// How rows with different adapters are run; each once.
    pub forms: Vec<MixedForm>,
}

/// What was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Served {
    /// Several adapters in one batch.
    Mixed(MixedTimes),
    /// An adapter from its file to its first token.
    Cold(ColdTimes),
    /// Prompts that begin alike.
    SharedPrefix(SharedPrefixTimes),
}

/// The outcome of one of these measurements.
#[derive(Debug, Clone, PartialEq)]
pub enum ServingResult<T> {
    /// What was measured.
    Measured(T),
    /// It can't be measured here; the reason.
    Absent(String),
    /// It failed; the error.
    Failed(String),
}

/// The outcomes of those that were asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Serving {
    /// Several adapters in one batch.
    pub mixed: Option<ServingResult<MixedTimes>>,
    /// An adapter from its file to its first token.
    pub cold: Option<ServingResult<ColdTimes>>,
    /// Prompts that begin alike.
    pub shared_prefix: Option<ServingResult<SharedPrefixTimes>>,
}

impl Serving {
    /// What went wrong, one sentence each.
    pub fn failures(&self) -> Vec<String> {
        fn of<T>(
            name: &str,
            found: Option<&ServingResult<T>>,
            differences: impl Fn(&T) -> Vec<String>,
        ) -> Vec<String> {
            match found {
                Some(ServingResult::Failed(error)) => vec![format!("{name}: {error}")],
                Some(ServingResult::Measured(times)) => differences(times),
                Some(ServingResult::Absent(_)) | None => Vec::new(),
            }
        }
        let mixed = of("mixed adapters", self.mixed.as_ref(), |times| {
            times.tokens.differences.clone()
        });
        let cold = of("cold start", self.cold.as_ref(), |_| Vec::new());
        let prefix = of("shared prefix", self.shared_prefix.as_ref(), |times| {
            times.tokens.differences.clone()
        });
        [mixed, cold, prefix].concat()
    }
}

/// Measures what's asked for, in this process.
///
/// # Errors
/// If a session can't be opened or run.
pub fn serve(request: &ServingRequest) -> Result<Served, Box<dyn Error + Send + Sync>> {
    Ok(match &request.asked {
        Asked::Mixed(plan) => Served::Mixed(mixed_worker::mixed(request, plan)?),
        Asked::Cold(other) => Served::Cold(cold_worker::cold(request, other)?),
        Asked::SharedPrefix(plan) => {
            Served::SharedPrefix(prefix_worker::shared_prefix(request, plan)?)
        }
    })
}
