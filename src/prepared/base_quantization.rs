//! What a base that's a quantized checkpoint is, and what of it a variant has as codes, for
//! manifests and results.

use serde::{Deserialize, Serialize};

/// A quantized base, as a variant uses it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BaseQuantization {
    /// `quant_method` of its configuration.
    pub method: String,
    /// The scheme for readers: `GPTQ 4 bits, groups of 128`.
    pub scheme: String,
    /// Weights whose codes the graph has as stored.
    pub kept_weights: usize,
    /// Bytes of these codes, their scales and zero points.
    pub kept_bytes: u64,
    /// Weights that are dequantized once, since no operator has their codes.
    pub dequantized_weights: usize,
    /// Bytes of these, in the dtype of the arithmetic.
    pub dequantized_bytes: u64,
    /// Why they're dequantized.
    pub dequantized_because: Vec<String>,
    /// Weights whose codes the variant doesn't have because the adapter changes them: floats in
    /// their place.
    pub changed_weights: usize,
    /// Bytes of these, in the dtype of the arithmetic.
    pub changed_bytes: u64,
    /// Whether merged weights were rounded to the scheme again.
    #[serde(default)]
    pub requantized: bool,
    /// The attribute `accuracy_level` of `MatMulNBits`: 1 computes in float32, 4 rounds inputs to 8
    /// bits; `None` without such products, and on a GPU.
    pub accuracy_level: Option<u8>,
}
