//! How a graph computes.

use super::AttentionOperator;
use crate::quantize::Accuracy;
use crate::weights::Dtype;

/// How a graph computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arithmetic {
    /// The type that weights are rounded to.
    pub storage: Dtype,
    /// The type of the arithmetic.
    pub compute: Dtype,
    /// The arithmetic of products with quantized weights, where it's chosen.
    pub accuracy: Option<Accuracy>,
    /// What attention is made of.
    pub attention: AttentionOperator,
}

impl Arithmetic {
    /// Whether it's a GPU's: a CPU computes in float32, with attention of its own.
    pub fn on_gpu(self) -> bool {
        self.compute != Dtype::Float32 || self.attention == AttentionOperator::Standard
    }
}
