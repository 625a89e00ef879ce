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
    /// The arithmetic of products with quantized weights.
    pub accuracy: Accuracy,
    /// What attention is made of.
    pub attention: AttentionOperator,
}
