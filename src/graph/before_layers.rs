//! What an adaptation may build before the decoder's layers: other passes through them, or another decoder.

use super::Adaptation;
use super::builder::{GraphBuilder, Scope, Value};
use super::decoder::{layers, own_embedding, positioned};
use super::lengths::Lengths;
use super::pass::Pass;
use super::positions::{PositionTables, active_mask};
use crate::arch::DecoderSpec;

/// The decoder before its layers. Each pass or network that's added has caches of its own, behind those of the decoder's
/// layers.
#[derive(Debug)]
pub struct BeforeLayers<'a, 'g> {
    /// The graph.
    pub graph: &'a mut GraphBuilder<'g>,
    /// Token ids, `[batch, sequence]`.
    pub input_ids: &'a Value,
    /// The embeddings, behind those of virtual tokens: `[batch, sequence, hidden_size]`.
    pub embedded: &'a Value,
    /// What the first layer gets: the embeddings, with learned positions and a norm where the model has them.
    pub hidden: &'a Value,
    pub(super) spec: &'a DecoderSpec,
    pub(super) adaptation: &'a dyn Adaptation,
    pub(super) tables: &'a mut PositionTables,
    pub(super) lengths: &'a Lengths,
    /// The number of the next layer's cache.
    pub(super) next_cache: usize,
}

impl<'g> BeforeLayers<'_, 'g> {
    /// Adds another pass through the decoder's layers, whose nodes are called `scope` and so on: adapted, with `gate`, or not.
    /// Returns the last hidden states of all positions.
    pub fn layers(&mut self, scope: &str, gate: Option<Value>) -> Value {
        let pass = Pass {
            spec: self.spec,
            adaptation: gate.is_some().then_some(self.adaptation),
            token_gate: gate,
            first_cache: self.next_cache,
            all_positions: true,
        };
        self.next_cache += pass.spec.layers.len();
        let (tables, lengths, hidden) = (&mut *self.tables, self.lengths, self.hidden.clone());
        self.graph.within(Scope::nodes(scope), |graph| {
            layers(graph, &pass, tables, lengths, hidden, None)
        })
    }

    /// Adds another decoder without its head, over `embedded` or embeddings of its own. Its nodes and parameters are called
    /// as `scope` says. Returns its last hidden states of all positions.
    pub fn decoder(&mut self, scope: Scope, spec: &DecoderSpec, embedded: Option<&Value>) -> Value {
        let pass = Pass {
            spec,
            adaptation: None,
            token_gate: None,
            first_cache: self.next_cache,
            all_positions: true,
        };
        self.next_cache += spec.layers.len();
        let (tables, lengths, input_ids) = (&mut *self.tables, self.lengths, self.input_ids);
        self.graph.within(scope, |graph| {
            let hidden = own_embedding(graph, &pass, input_ids, embedded);
            let hidden = positioned(graph, spec, lengths, hidden);
            layers(graph, &pass, tables, lengths, hidden, None)
        })
    }

    /// Adds the mask of the tokens at and behind the position that the input
    /// [`ACTIVE_FROM_INPUT`](super::ACTIVE_FROM_INPUT) gives: 1 there and 0 before, `[batch, sequence, 1]`.
    pub fn active_mask(&mut self) -> Value {
        active_mask(self.graph, self.lengths)
    }
}
