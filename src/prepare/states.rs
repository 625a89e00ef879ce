//! The states of a graph's layers.

use crate::arch::{Layer, State, StateKind};
use crate::prepared::LayerState;
use crate::weights::Dtype;

/// The states of `layers`, in the order of their inputs, in a graph that computes in `compute`.
pub fn states<'a>(layers: impl Iterator<Item = &'a Layer>, compute: Dtype) -> Vec<LayerState> {
    let of_layer = |(layer, spec): (usize, &Layer)| {
        let made = move |State { kind, shape }| LayerState {
            layer,
            kind,
            shape,
            dtype: match kind {
                StateKind::Convolution => compute,
                StateKind::Recurrent => Dtype::Float32,
            },
        };
        spec.states().into_iter().map(made).collect::<Vec<_>>()
    };
    layers.enumerate().flat_map(of_layer).collect()
}
