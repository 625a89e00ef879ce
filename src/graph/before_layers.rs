//! The builder that [`Adaptation::before_layers`] is given: it adds further passes through the
//! layers, or another decoder.

use super::Adaptation;
use super::builder::{GraphBuilder, Scope, Value};
use super::decoder::{layers, own_embedding, positioned};
use super::lengths::Lengths;
use super::pass::Pass;
use super::positions::{PositionTables, active_mask};
use crate::arch::DecoderSpec;

/// The decoder before its layers are added. Each pass or decoder added here has its own caches;
/// they're numbered after those of the decoder's layers.
#[derive(Debug)]
pub struct BeforeLayers<'a, 'g> {
    /// The graph.
    pub graph: &'a mut GraphBuilder<'g>,
    /// Token ids, `[batch, sequence]`.
    pub input_ids: &'a Value,
    /// The token embeddings, after those of virtual tokens: `[batch, sequence, hidden_size]`.
    pub embedded: &'a Value,
    /// The first layer's input: `embedded`, with learned positions and a norm if the model has
    /// them.
    pub hidden: &'a Value,
    pub(super) spec: &'a DecoderSpec,
    pub(super) adaptation: &'a dyn Adaptation,
    pub(super) tables: &'a mut PositionTables,
    pub(super) lengths: &'a Lengths,
    /// The number of the next layer's cache.
    pub(super) next_cache: usize,
}

impl<'g> BeforeLayers<'_, 'g> {
    /// Adds a pass through the decoder's layers; `scope` prefixes the names of its nodes. With a
    /// `gate` the layers have the adapter, otherwise not. Returns the last hidden states of all
    /// positions.
    pub fn layers(&mut self, scope: &str, gate: Option<Value>) -> Value {
        let pass = Pass {
            spec: self.spec,
            adaptation: gate.is_some().then_some(self.adaptation),
            token_gate: gate,
            per_layer: None,
            first_cache: self.next_cache,
            whole_sequences: self.adaptation.runs_whole_sequences(),
            all_positions: true,
            last_from: None,
        };
        self.next_cache += pass.spec.layers.len();
        let (tables, lengths, hidden) = (&mut *self.tables, self.lengths, self.hidden.clone());
        self.graph.within(Scope::nodes(scope), |graph| {
            layers(graph, &pass, tables, lengths, hidden, None)
        })
    }

    /// Adds another decoder without its head, over `embedded` or, if `None`, its own embeddings.
    /// `scope` prefixes the names of its nodes and parameters. Returns its last hidden states of
    /// all positions.
    pub fn decoder(&mut self, scope: Scope, spec: &DecoderSpec, embedded: Option<&Value>) -> Value {
        let pass = Pass {
            spec,
            adaptation: None,
            token_gate: None,
            per_layer: None,
            first_cache: self.next_cache,
            whole_sequences: false,
            all_positions: true,
            last_from: None,
        };
        self.next_cache += spec.layers.len();
        let (tables, lengths, input_ids) = (&mut *self.tables, self.lengths, self.input_ids);
        self.graph.within(scope, |graph| {
            let hidden = own_embedding(graph, &pass, input_ids, embedded);
            let hidden = positioned(graph, spec, lengths, hidden);
            layers(graph, &pass, tables, lengths, hidden, None)
        })
    }

    /// Adds a mask, `[batch, sequence, 1]`: 0 for tokens before the position in the input
    /// [`ACTIVE_FROM_INPUT`](super::ACTIVE_FROM_INPUT), and 1 from there on.
    pub fn active_mask(&mut self) -> Value {
        active_mask(self.graph, self.lengths)
    }
}
