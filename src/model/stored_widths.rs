//! Widths that a checkpoint decides, not its `config.json`.
//!
//! MPT's own code makes MLPs `expansion_ratio` times as wide as the hidden size. Transformers' MPT
//! ignores that key, and always makes them four times as wide.

use super::find_base_tensor;
use crate::arch::{DecoderSpec, Mlp};
use crate::weights::TensorStore;

/// Gives the MLPs of an MPT the width that `store` has, if it's the one of Transformers.
pub fn take_stored(spec: &mut DecoderSpec, store: &TensorStore) {
    if spec.model_type != "mpt" {
        return;
    }
    let width = 4 * spec.hidden_size;
    let is_as_wide = |fc1: &str| {
        let tensor = find_base_tensor(spec, store, &format!("{fc1}.weight"));
        tensor.is_ok_and(|tensor| tensor.shape.first() == Some(&width))
    };
    let found: Vec<bool> = spec
        .layers
        .iter()
        .map(|layer| matches!(&layer.mlp, Mlp::Plain { fc1, .. } if is_as_wide(&fc1.source)))
        .collect();
    for (layer, found) in spec.layers.iter_mut().zip(found) {
        if let (true, Mlp::Plain { fc1, fc2, .. }) = (found, &mut layer.mlp) {
            fc1.out_features = width;
            fc2.in_features = width;
        }
    }
}
