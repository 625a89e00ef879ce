//! One pass through a decoder's layers, and the names in a graph that the engine relies on.

use super::Adaptation;
use super::builder::Value;
use crate::arch::DecoderSpec;

/// The constant that holds the length of the rotary tables. Before opening the graph, it may be set
/// to the number of positions needed.
pub const ROTARY_LENGTH: &str = "rotary.max_positions";

/// The input that holds the virtual tokens of prompt-learning methods.
pub const PROMPT_INPUT: &str = "prompt_embeddings";

/// The input of adapters that act from a given position on, i64 `[batch, 1]`.
pub const ACTIVE_FROM_INPUT: &str = "active_from";

/// The model to export.
#[derive(Debug, Clone, Copy)]
pub struct Export<'a> {
    /// The architecture.
    pub spec: &'a DecoderSpec,
    /// The adapter, for the unmerged variant.
    pub adaptation: Option<&'a dyn Adaptation>,
}

/// One pass through a decoder's layers. An adaptation may add further passes.
#[derive(Debug, Clone)]
pub(super) struct Pass<'a> {
    /// The architecture.
    pub spec: &'a DecoderSpec,
    /// The adapter of its modules, if any.
    pub adaptation: Option<&'a dyn Adaptation>,
    /// Each token's weights of the `n` adapters, `[batch, sequence, n]`, if the adaptation has
    /// them.
    pub token_gate: Option<Value>,
    /// The layers' slices of the per-layer embeddings, `[batch, sequence, layers, width]`, if the
    /// model has them.
    pub per_layer: Option<Value>,
    /// The number of the first layer's cache.
    pub first_cache: usize,
    /// Whether every token counts as one of a prompt: see
    /// [`Adaptation::runs_whole_sequences`].
    pub whole_sequences: bool,
    /// Whether the last layer's output is needed for all positions.
    pub all_positions: bool,
    /// The first of the layers that need the last position only, since none of them makes keys and
    /// values. `None` if that's the last layer's MLP at most.
    pub last_from: Option<usize>,
}

impl Pass<'_> {
    /// Whether `index` is the last layer, and behind its attention only the last position is needed.
    pub fn is_last_layer(&self, index: usize) -> bool {
        index + 1 == self.spec.layers.len() && !self.all_positions && self.last_from.is_none()
    }
}
