//! Indices into a weight that a method draws from a seed and doesn't save.

use std::collections::HashMap;
use std::sync::Arc;

use super::tuner::TargetLinear;
use crate::random::TorchGenerator;

/// Draws the indices of every layer from one seed: layers of the same size get the same ones.
#[derive(Debug)]
pub struct SeededIndices {
    seed: u64,
    drawn: HashMap<(usize, usize), Arc<[usize]>>,
}

impl SeededIndices {
    /// Indices drawn from `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            drawn: HashMap::new(),
        }
    }

    /// `count` different indices into the weight of `layer`, flattened row by row.
    ///
    /// # Panics
    /// If the weight has fewer elements.
    pub fn of(&mut self, layer: &TargetLinear, count: usize) -> Arc<[usize]> {
        let elements = layer.elements();
        let seed = self.seed;
        let indices = self.drawn.entry((elements, count)).or_insert_with(|| {
            let permutation = TorchGenerator::new(seed).permutation(elements as u64, count);
            let indices = permutation.into_iter().map(|place| place as usize);
            indices.collect()
        });
        Arc::clone(indices)
    }
}
