//! Indices into a weight that a method draws from a seed and doesn't save.

use std::collections::HashMap;
use std::sync::Arc;

use super::tuner::Layer;
use crate::random::TorchGenerator;

/// Draws the indices of every layer from one seed: layers of the same size get the same ones.
#[derive(Debug)]
pub struct SeededPlaces {
    seed: u64,
    drawn: HashMap<(usize, usize), Arc<[usize]>>,
}

impl SeededPlaces {
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
    pub fn of(&mut self, layer: &Layer, count: usize) -> Arc<[usize]> {
        let elements = layer.elements();
        let seed = self.seed;
        let places = self.drawn.entry((elements, count)).or_insert_with(|| {
            let permutation = TorchGenerator::new(seed).permutation(elements as u64, count);
            let places = permutation.into_iter().map(|place| place as usize);
            places.collect()
        });
        Arc::clone(places)
    }
}
