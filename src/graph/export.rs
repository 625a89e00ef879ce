//! What is exported, and the names in a graph that its readers rely on.

use crate::adapter::Adapter;
use crate::adapter::form::{Form, Naming};
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
    /// The adapter that stays beside the weights, in the unmerged variant.
    pub adapter: Option<&'a Adapter>,
    /// The number of the first layer's cache.
    pub first_cache: usize,
    /// Whether the last layer's output is needed for all positions, whatever the adapter.
    pub all_positions: bool,
}

impl<'a> Export<'a> {
    /// Whether `index` is the last layer, if only the last position of its output is needed.
    pub fn is_last_layer(&self, index: usize) -> bool {
        index + 1 == self.spec.layers.len() && !self.needs_all_positions()
    }

    /// Whether every position goes through the last layer, and the last one is selected before the head.
    pub fn needs_all_positions(&self) -> bool {
        self.all_positions || self.adapter.is_some_and(Adapter::takes_whole_calls)
    }

    /// What the adapter does to the module at `path`, if anything, and how its inputs are called.
    pub fn module_form(&self, path: &str) -> Option<(Form<'a>, Naming)> {
        let adapter = self.adapter?;
        Some((adapter.unmerged_form(path)?, adapter.naming(path)))
    }
}
