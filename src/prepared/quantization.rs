//! What is quantized in a prepared model, for manifests and results.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Precision;
use crate::adapter::Adapter;
use crate::arch::DecoderSpec;
use crate::quantize::{Accuracy, Format, Quantization};

/// The file's name, in the folder of a model's variants.
pub const QUANTIZED: &str = "quantized.safetensors";

/// What is quantized and how, in manifests and results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuantizationSummary {
    /// `rtn` (rounded to nearest) or `nf4`.
    pub scheme: String,
    /// Of a code, in weights other than the head and the embedding.
    pub bits: usize,
    /// Values that share a scale.
    pub block_size: usize,
    /// Whether zero is a code of every block, in its middle; `nf4` is not evenly spaced.
    pub symmetric: bool,
    /// `MatMulNBits`' attribute: 4 rounds its inputs to 8 bits as well, 1 computes in float32. `MatMulBnb4` has
    /// none, and neither has a GPU, which computes in the type of the inputs.
    pub accuracy_level: Option<u8>,
    /// What the head is quantized to; absent where it stays float.
    pub head: Option<Format>,
    /// What the token embedding is quantized to; absent where it stays float.
    #[serde(default)]
    pub embedding: Option<Format>,
    /// Weights that are quantized, a shared one once.
    pub quantized_weights: usize,
    /// Weights that would be, but for the unmerged adapter, which has others in their place.
    #[serde(default)]
    pub replaced_weights: usize,
    /// Bytes of their codes and scales.
    pub quantized_bytes: u64,
    /// What stays as it is.
    pub float: Vec<String>,
    /// As options say it.
    pub quantization: Quantization,
}

impl QuantizationSummary {
    /// Describes `quantization` of a model that's prepared in `precision`, with an `unmerged` adapter beside it.
    pub fn new(
        spec: &DecoderSpec,
        quantization: Quantization,
        precision: Precision,
        unmerged: Option<&Adapter>,
    ) -> Self {
        let Quantization {
            weights,
            head,
            embedding,
            ..
        } = quantization;
        let others = unmerged.map_or_else(BTreeSet::new, Adapter::replaced_weights);
        let mut all = BTreeMap::new();
        let mut replaced = 0;
        for module in &spec.modules() {
            if let Some([rows, columns]) = module.matrix_size()
                && let Some(format) = quantization.of(spec, module)
            {
                if others.contains(&format!("{}.weight", module.path)) {
                    replaced += 1;
                    continue;
                }
                let bytes = format.bytes(rows, columns, precision.compute);
                all.insert(quantization.key(spec, module), bytes);
            }
        }
        let mut float = match (embedding, &spec.learned_positions) {
            (None, _) => vec!["embeddings"],
            (Some(_), Some(_)) => vec!["position embeddings"],
            (Some(_), None) => vec![],
        };
        float.extend(["norms", "biases"]);
        if head.is_none() {
            float.push("lm_head");
        }
        if spec.has_experts() {
            float.push("routers");
        }
        let nf4 = weights == Format::Nf4;
        Self {
            scheme: if nf4 { "nf4" } else { "rtn" }.to_owned(),
            bits: weights.bits(),
            block_size: weights.block_size(),
            symmetric: !nf4,
            accuracy_level: precision.accuracy().map(Accuracy::level),
            head,
            embedding,
            quantized_weights: all.len(),
            replaced_weights: replaced,
            quantized_bytes: all.values().sum(),
            float: float.into_iter().map(str::to_owned).collect(),
            quantization,
        }
    }
}
