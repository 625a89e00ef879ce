//! Per-layer embeddings, as data: a second embedding of every token, of which each layer takes a
//! slice of its own.
//!
//! For token ids `t` and their embeddings `x`:
//!
//! ```text
//! p = (norm(projection(x) / sqrt(hidden_size)) + table[t] * sqrt(width)) / sqrt(2)
//! ```
//!
//! At its end, layer `i` takes slice `p_i`, of `width` elements:
//!
//! ```text
//! h = h + norm_i(projection_i(act(gate_i(h)) * p_i))
//! ```

use super::{Activation, Embedding, Linear, Module, Norm};

/// The second embedding, and what layers do with it.
#[derive(Debug, Clone)]
pub struct PerLayerEmbeddings {
    /// Width of a layer's slice.
    pub width: usize,
    /// `[tokens, layers * width]`; ids that it doesn't have take its first row.
    pub table: Embedding,
    /// `[layers * width, hidden_size]`
    pub projection: Linear,
    /// The norm of each slice of the projection.
    pub norm: Norm,
    /// Applied to each layer's gate.
    pub activation: Activation,
    /// Whether there may be virtual tokens, which have no ids: then only the projection counts, for
    /// all tokens. Otherwise Transformers fails.
    pub takes_virtual_tokens: bool,
    /// One entry per layer.
    pub layers: Vec<PerLayerInput>,
}

/// What one layer does with its slice.
#[derive(Debug, Clone)]
pub struct PerLayerInput {
    /// `[width, hidden_size]`
    pub gate: Linear,
    /// `[hidden_size, width]`
    pub projection: Linear,
    /// The norm of the projection's output.
    pub norm: Norm,
}

impl PerLayerEmbeddings {
    /// The modules that belong to no layer.
    pub(super) fn modules(&self) -> Vec<Module> {
        vec![
            self.table.module(),
            self.projection.module(),
            self.norm.module(),
        ]
    }

    /// All linear layers.
    pub(super) fn linears(&self) -> impl Iterator<Item = &Linear> {
        let inner = self.layers.iter();
        let inner = inner.flat_map(|layer| [&layer.gate, &layer.projection]);
        [&self.projection].into_iter().chain(inner)
    }

    /// Path and source of every module, mutable.
    pub(super) fn names_mut(&mut self) -> Vec<(&mut String, &mut String)> {
        let Self {
            table,
            projection,
            norm,
            layers,
            ..
        } = self;
        let mut all = vec![
            (&mut table.path, &mut table.source),
            (&mut projection.path, &mut projection.source),
            (&mut norm.path, &mut norm.source),
        ];
        for PerLayerInput {
            gate,
            projection,
            norm,
        } in layers
        {
            all.push((&mut gate.path, &mut gate.source));
            all.push((&mut projection.path, &mut projection.source));
            all.push((&mut norm.path, &mut norm.source));
        }
        all
    }
}

impl PerLayerInput {
    /// The modules, in Transformers' order.
    pub(super) fn modules(&self) -> Vec<Module> {
        vec![
            self.gate.module(),
            self.projection.module(),
            self.norm.module(),
        ]
    }
}
