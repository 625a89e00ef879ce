//! The interface between the graph and an unmerged adapter. The graph knows no PEFT methods.

use std::fmt::Debug;

use super::builder::{GraphBuilder, Value};
use super::{
    AbsorbedChange, AttentionPlace, AttentionSite, BeforeLayers, EmbeddingSite, ExpertSite,
    LinearSite,
};

/// An unmerged adapter. The builder calls each hook at its place in the graph, and the hook adds
/// the adapter's nodes there. `None` means that the adapter adds nothing.
pub trait Adaptation: Debug {
    /// Whether virtual tokens precede the token embeddings.
    fn has_virtual_tokens(&self) -> bool;

    /// Whether all positions must go through the last layer, instead of the last one alone.
    fn takes_whole_calls(&self) -> bool;

    /// Whether PEFT runs the whole sequence for every new token, instead of that token alone.
    fn runs_whole_sequences(&self) -> bool;

    /// Returns the changed rows of a token embedding.
    fn embedding(&self, graph: &mut GraphBuilder, site: &EmbeddingSite) -> Option<Value>;

    /// Adds a linear layer with its adapter; returns its output, bias included.
    fn linear(&self, graph: &mut GraphBuilder, site: &LinearSite) -> Option<Value>;

    /// How the adapter changes the linear layer at `path`, which is absorbed into queries and outputs
    /// of latent attention.
    fn absorbed(&self, graph: &mut GraphBuilder, path: &str) -> Option<AbsorbedChange>;

    /// Returns the changed output of an expert's projection; `product` is the unchanged one.
    fn expert(&self, graph: &mut GraphBuilder, site: ExpertSite, product: &Value) -> Option<Value>;

    /// Whether [`attention`](Self::attention) adds something to the attention at `path`.
    fn adapts_attention(&self, path: &str) -> bool;

    /// Returns a value to add to an attention's output, or to its heads' outputs, and to which of
    /// them.
    fn attention(
        &self,
        graph: &mut GraphBuilder,
        site: &AttentionSite,
    ) -> Option<(Value, AttentionPlace)>;

    /// Adds nodes before the layers: further passes through them, or the adapter's own network.
    fn before_layers(&self, decoder: &mut BeforeLayers) -> Carried;

    /// Returns the changed input of layer `index`; `hidden` is the unchanged one,
    /// `[batch, sequence, hidden_size]`. `state` was created by
    /// [`before_layers`](Self::before_layers); the hook may replace it for later layers.
    fn enter_layer(
        &self,
        graph: &mut GraphBuilder,
        index: usize,
        hidden: &Value,
        state: &mut Value,
    ) -> Option<Value>;
}

/// Values that [`Adaptation::before_layers`] hands to the later hooks.
#[derive(Debug, Default)]
pub struct Carried {
    /// Each token's weights of the `n` adapters, `[batch, sequence, n]`.
    pub token_gate: Option<Value>,
    /// The state for [`Adaptation::enter_layer`]. If it's `None`, that hook isn't called.
    pub state: Option<Value>,
}
