//! One pass through a decoder's layers, and the names in a graph that its readers rely on.

use super::Adaptation;
use super::builder::Value;
use crate::arch::DecoderSpec;

/// The constant that holds the length of the rotary tables. Whoever loads the graph may set it to the
/// positions that are needed, at least one more than the last.
pub const ROTARY_LENGTH: &str = "rotary.max_positions";

/// The input of prompt-learning methods.
pub const PROMPT_INPUT: &str = "prompt_embeddings";

/// The input of adapters that act from some position on, i64 `[batch, 1]`.
pub const ACTIVE_FROM_INPUT: &str = "active_from";

/// What is exported.
#[derive(Debug, Clone, Copy)]
pub struct Export<'a> {
    /// The architecture.
    pub spec: &'a DecoderSpec,
    /// The adapter that stays apart from the weights, in the unmerged variant.
    pub adaptation: Option<&'a dyn Adaptation>,
}

/// One pass through a decoder's layers: an adaptation may add others to the decoder's own.
#[derive(Debug, Clone)]
pub(super) struct Pass<'a> {
    /// The architecture.
    pub spec: &'a DecoderSpec,
    /// What changes its modules.
    pub adaptation: Option<&'a dyn Adaptation>,
    /// The gate of each token's adapters, `[batch, sequence, n]`, where the adaptation has one.
    pub token_gate: Option<Value>,
    /// The number of the first layer's cache.
    pub first_cache: usize,
    /// Whether the last layer's output is needed for all positions.
    pub all_positions: bool,
}

impl Pass<'_> {
    /// Whether `index` is the last layer, and only the last position of its output is needed.
    pub fn is_last_layer(&self, index: usize) -> bool {
        index + 1 == self.spec.layers.len() && !self.all_positions
    }
}
