//! What serving costs.

use serde::{Deserialize, Serialize};

use super::Overhead;
use crate::measure::serving::cold::{ColdSource, ColdStart};
use crate::measure::serving::mixed::{MixedForm, MixedRun};
use crate::measure::serving::shared_prefix::{CacheOf, PrefixRun};

/// What serving costs; what wasn't asked for is left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Serving {
    /// Several adapters in one batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mixed: Option<Outcome<Mixed>>,
    /// An adapter from its file to its first token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cold_start: Option<Outcome<ColdStarts>>,
    /// Prompts that begin alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_prefix: Option<Outcome<SharedPrefix>>,
}

/// An adapter from its file to its first token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ColdStarts {
    /// Bytes of the adapter's tensors.
    pub adapter_bytes: u64,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// By where the adapter is before its start.
    pub sources: Vec<ColdStartsFrom>,
}

/// An adapter's starts from one place; medians, in seconds, null without a start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ColdStartsFrom {
    /// Where it is.
    pub source: ColdSource,
    /// Which part of its file was in the page cache just before, from 0 to 1; null for memory, and
    /// where the system doesn't tell.
    pub cached_share: Option<f64>,
    /// Reading the file into memory.
    pub load: Option<f64>,
    /// Binding the tensors.
    pub bind: Option<f64>,
    /// From the prompt to the first token.
    pub first_token: Option<f64>,
    /// All of it.
    pub total: Option<f64>,
    /// What all of it takes more than from memory.
    pub over_memory: Option<Overhead>,
    /// Every start.
    pub starts: Vec<ColdStart>,
}

/// Prompts that begin alike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SharedPrefix {
    /// Prompts that have a prefix in common.
    pub prompts: usize,
    /// Whose cache the adapter's prompts take.
    pub cache_of: CacheOf,
    /// By length, in ascending order.
    pub lengths: Vec<SharedPrefixLength>,
    /// Lengths that the model has no positions for.
    pub left_out: Vec<usize>,
    /// The smallest length from which on all measured ones say that reusing is faster.
    pub pays_from: PaysFrom,
    /// Whether prompts go on the same way from a reused cache.
    pub tokens: SharedPrefixTokens,
}

/// From which length on reusing a prefix pays; null where the largest one doesn't show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaysFrom {
    /// For the base's prompts.
    pub base: Option<usize>,
    /// For the adapter's.
    pub unmerged: Option<usize>,
}

/// A length of the prefix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SharedPrefixLength {
    /// Tokens of the prefix.
    pub prefix_tokens: usize,
    /// The base's prompts; null without a base.
    pub base: Option<Reuse>,
    /// The adapter's.
    pub unmerged: Option<Reuse>,
}

/// First tokens with whole prompts and with a reused prefix; medians, in seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reuse {
    /// Tokens of each prompt behind the prefix.
    pub own_tokens: usize,
    /// Bytes that are kept, and copied for each prompt.
    pub kept_bytes: u64,
    /// Computing and keeping the prefix, once.
    pub keep: Option<f64>,
    /// The first token with the whole prompt computed.
    pub whole: f64,
    /// The first token with the prefix's cache copied.
    pub reused: f64,
    /// What reusing takes more; below zero, it pays.
    pub over_whole: Option<Overhead>,
    /// Every pair.
    pub runs: Vec<PrefixRun>,
}

/// Whether prompts go on the same way from a reused cache.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SharedPrefixTokens {
    /// Whether nothing differs.
    pub same: bool,
    /// Generations that were compared.
    pub sequences: usize,
    /// Tokens that were compared and are the same.
    pub tokens: usize,
    /// Generations that took another token that's as likely, and of which the rest wasn't compared.
    pub parted: usize,
    /// What differs.
    pub differences: Vec<String>,
}

/// What came of one of these measurements.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Outcome<T> {
    /// It can't be measured here.
    Absent {
        /// Why.
        absent: String,
    },
    /// It went wrong.
    Failed {
        /// How.
        error: String,
    },
    /// It was measured.
    Measured(T),
}

/// Several adapters in one batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mixed {
    /// Rows of the batch.
    pub rows: usize,
    /// Tokens of the prompt, which is the same in every row.
    pub prompt_tokens: usize,
    /// New tokens of each row.
    pub new_tokens: usize,
    /// Where the adapters come from, one name each.
    pub adapters: Vec<String>,
    /// The base, one adapter, and more of them.
    pub batches: Vec<MixedBatch>,
    /// Forms that the method doesn't have.
    pub refused: Vec<RefusedForm>,
    /// What further adapters take in memory.
    pub memory: MixedMemory,
    /// Whether rows generate what their adapters generate by themselves.
    pub tokens: MixedTokens,
}

/// A form that the method doesn't have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RefusedForm {
    /// The form.
    pub form: MixedForm,
    /// Why not, and what else there is.
    pub reason: String,
}

/// A batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MixedBatch {
    /// Different adapters in it; 0 is the base.
    pub adapters: usize,
    /// How rows with different adapters are run; null for the base and for one adapter.
    pub form: Option<MixedForm>,
    /// Median time to the first token of all rows, seconds; null without a run.
    pub time_to_first_token: Option<f64>,
    /// Median decode step, seconds. A step makes a token of every row.
    pub decode_step: Option<f64>,
    /// What it takes more than one adapter for all rows.
    pub over_one: Option<Over>,
    /// What it takes more than the base.
    pub over_base: Option<Over>,
    /// Every run.
    pub runs: Vec<MixedRun>,
}

/// Additional times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Over {
    /// Of whole generations.
    pub generation: Option<Overhead>,
    /// Of the first token.
    pub first_token: Option<Overhead>,
    /// Of a decode step.
    pub decode_step: Option<Overhead>,
}

/// What further adapters take in memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MixedMemory {
    /// Bytes of one adapter's tensors.
    pub adapter_bytes: u64,
    /// By how much the resident set grew with each adapter after the first, in the mean.
    pub resident_bytes_per_adapter: Option<f64>,
    /// The resident set before the first adapter was loaded, and after each.
    pub resident_bytes: Vec<u64>,
    /// The part of it that isn't backed by a file.
    pub anonymous_bytes: Vec<Option<u64>>,
}

/// Whether rows generate what their adapters generate by themselves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MixedTokens {
    /// Whether nothing differs.
    pub same: bool,
    /// Sequences that were compared.
    pub sequences: usize,
    /// Tokens that were compared and are the same.
    pub tokens: usize,
    /// Sequences that took another token that's as likely, and of which the rest wasn't compared.
    pub parted: usize,
    /// Different sequences among those that the adapters generate by themselves.
    pub distinct: usize,
    /// The largest difference of a row's logits from its adapter's by itself, over the largest;
    /// null where logits aren't on the host, or one isn't finite.
    pub logits_difference: Option<f64>,
    /// The same between the two adapters that are most alike.
    pub nearest_adapters: Option<f64>,
    /// What differs.
    pub differences: Vec<String>,
}
