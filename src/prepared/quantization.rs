//! What is quantized in a prepared model, for manifests and results.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Precision;
use crate::adapter::Adapter;
use crate::arch::{DecoderSpec, LatentCache};
use crate::quantize::{Accuracy, Format, Quantization};

/// File name of the base's quantized weights, in the folder of a model's variants.
pub const QUANTIZED: &str = "quantized.safetensors";

/// File name of the re-packed weights of a base that's a quantized checkpoint, in the same folder.
pub const REPACKED: &str = "repacked.safetensors";

/// What is quantized, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuantizationSummary {
    /// `rtn` (rounded to nearest), `search` or `k_quant` (searched, with zero points), or `nf4`.
    pub scheme: String,
    /// Bits per code, in weights other than the head, keys, values and the embedding.
    pub bits: usize,
    /// Values that share a scale.
    pub block_size: usize,
    /// Whether codes are symmetric around zero; `nf4` codes are not evenly spaced.
    pub symmetric: bool,
    /// The attribute `accuracy_level` of `MatMulNBits`: 4 rounds its inputs to 8 bits too, 1
    /// computes in float32. `None` for `MatMulBnb4`, which has no such attribute, and on a GPU,
    /// which computes in the type of the inputs.
    pub accuracy_level: Option<u8>,
    /// The head's format; `None` if it stays float.
    pub head: Option<Format>,
    /// The format of layers that compute keys or values alone.
    #[serde(default)]
    pub kv_proj: Option<Format>,
    /// The token embedding's format; `None` if it stays float.
    #[serde(default)]
    pub embedding: Option<Format>,
    /// Number of quantized weights; a shared one counts once.
    pub quantized_weights: usize,
    /// Number of weights that would be quantized, but that the unmerged adapter replaces by float
    /// ones.
    #[serde(default)]
    pub replaced_weights: usize,
    /// Bytes of all codes, scales and zero points.
    pub quantized_bytes: u64,
    /// What isn't quantized.
    pub float: Vec<String>,
    /// The options that led to this.
    pub quantization: Quantization,
}

impl QuantizationSummary {
    /// Describes `quantization` for a model with this `spec` and `precision`, on which an
    /// `unmerged` adapter may run.
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
        if spec.latent_cache() == Some(LatentCache::Compressed) {
            float.push("kv_b_proj");
        }
        let encoding = weights.encoding();
        Self {
            scheme: weights.keys().scheme.to_owned(),
            bits: encoding.bits(),
            block_size: encoding.block_size(),
            symmetric: weights.is_symmetric(),
            accuracy_level: precision.accuracy().map(Accuracy::level),
            head,
            kv_proj: Some(quantization.kv_proj.unwrap_or(weights)),
            embedding,
            quantized_weights: all.len(),
            replaced_weights: replaced,
            quantized_bytes: all.values().sum(),
            float: float.into_iter().map(str::to_owned).collect(),
            quantization,
        }
    }
}
