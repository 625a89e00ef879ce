//! What an adapter adds to a decoder's graph, as the graph asks for it.

use std::fmt::Debug;

use super::builder::{GraphBuilder, Value};
use super::{AttentionPlace, AttentionSite, BeforeLayers, EmbeddingSite, ExpertSite, LinearSite};

/// An adapter that stays apart from the weights. Each hook adds the adapter's nodes at one place of the graph; `None` says
/// that there are none.
pub trait Adaptation: Debug {
    /// Whether virtual tokens come in front of the token embeddings.
    fn has_virtual_tokens(&self) -> bool;

    /// Whether every position goes through the last layer, and not only the last one.
    fn takes_whole_calls(&self) -> bool;

    /// Changes the rows of a token embedding; returns the changed ones.
    fn embedding(&self, graph: &mut GraphBuilder, site: &EmbeddingSite) -> Option<Value>;

    /// Adds a linear layer with its adapter; returns its output, bias included.
    fn linear(&self, graph: &mut GraphBuilder, site: &LinearSite) -> Option<Value>;

    /// Changes `product`, which a projection of an expert makes; returns the changed one.
    fn expert(&self, graph: &mut GraphBuilder, site: ExpertSite, product: &Value) -> Option<Value>;

    /// Whether [`attention`](Self::attention) adds something to the attention at `path`.
    fn adapts_attention(&self, path: &str) -> bool;

    /// Adds what an attention's output, or its heads' outputs, are increased by.
    fn attention(
        &self,
        graph: &mut GraphBuilder,
        site: &AttentionSite,
    ) -> Option<(Value, AttentionPlace)>;

    /// Adds what comes before the layers: other passes, or networks of the adapter's own.
    fn before_layers(&self, decoder: &mut BeforeLayers) -> Carried;

    /// Changes `hidden`, what layer `index` gets, `[batch, sequence, hidden_size]`, given the `state` that
    /// [`before_layers`](Self::before_layers) started, and may change that for later layers.
    fn enter_layer(
        &self,
        graph: &mut GraphBuilder,
        index: usize,
        hidden: &Value,
        state: &mut Value,
    ) -> Option<Value>;
}

/// What an adaptation takes along through the layers.
#[derive(Debug, Default)]
pub struct Carried {
    /// The gate of each token's adapters, `[batch, sequence, n]`.
    pub token_gate: Option<Value>,
    /// What [`Adaptation::enter_layer`] is given; without it, that isn't asked.
    pub state: Option<Value>,
}
