//! The base's quantized weights, which all variants of a model share.
//!
//! Merging comes before quantizing: a merged weight is worked out in full precision and quantized like the base's. An
//! unmerged adapter stands beside the quantized base, as one that was trained there (QLoRA) is served; what its tensors are
//! computed from is what the codes stand for. A weight that the adapter's form replaces is made of that too, and is no longer
//! quantized. What PEFT takes out of the weights once and for all, when it loads the adapter, is taken out before they are
//! quantized ([`residuals`](super::residuals)).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Precision, Preparation, PrepareError, Variant, fingerprint};
use crate::adapter::Adapter;
use crate::adapter::form::Form;
use crate::arch::DecoderSpec;
use crate::model::BaseModel;
use crate::quantize::{Accuracy, Format, Quantization, QuantizedFile};

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

impl Preparation<'_> {
    /// Makes the base's quantized weights, where it's to be quantized and they aren't there. `begin` is told their bytes.
    ///
    /// # Errors
    /// If a weight is missing or isn't finite, or they can't be written.
    pub fn quantize(&self, begin: &dyn Fn(u64)) -> Result<(), PrepareError> {
        self.quantized_file(begin)?;
        Ok(())
    }

    /// The base's quantized weights, made where they aren't there.
    pub(super) fn quantized_file(
        &self,
        begin: &dyn Fn(u64),
    ) -> Result<Option<Arc<QuantizedFile>>, PrepareError> {
        let Some(quantization) = self.precision.quantization else {
            return Ok(None);
        };
        let file = QuantizedFile::make_ready(
            &self.model_folder().join(QUANTIZED),
            &fingerprint::fingerprint(self, None, Variant::Base),
            self.base,
            quantization,
            self.precision.quantized_types(),
            begin,
        )?;
        Ok(Some(Arc::new(file)))
    }

    /// The base as the adapter of `variant` sees it beside its weights, rounded and maybe `quantized`; `None` where that's the
    /// base itself.
    pub(super) fn beside(
        &self,
        variant: Variant,
        quantized: Option<&Arc<QuantizedFile>>,
    ) -> Option<BaseModel> {
        if variant != Variant::Unmerged {
            return None;
        }
        let dtype = self.precision.dtype;
        let rounded = match self.base.fits(dtype) {
            true => None,
            false => Some(self.base.beside_rounded(dtype)),
        };
        let (Some(quantization), Some(file)) = (self.precision.quantization, quantized) else {
            return rounded;
        };
        let base = rounded.as_ref().unwrap_or(self.base);
        Some(base.beside_quantized(quantization, Arc::clone(file)))
    }
}

/// Refuses what can't stand beside quantized weights: nodes that dequantize what doesn't end with a block.
pub fn check_beside(adapter: &Adapter, quantization: Quantization) -> Result<(), PrepareError> {
    for module in adapter.spec.modules() {
        let (Some(form), Some(format)) = (
            adapter.unmerged_form(&module.path),
            quantization.of(&adapter.spec, &module),
        ) else {
            continue;
        };
        let refused = |reason: &'static str| PrepareError::BesideQuantized {
            peft_type: adapter.peft_type.clone(),
            path: module.path.clone(),
            format: format.name(),
            reason,
        };
        let [rows, columns] = module.matrix_size().expect("it's a quantized matrix");
        let ends_within_block =
            format == Format::Nf4 && !(rows * columns).is_multiple_of(format.block_size());
        if ends_within_block && matches!(&form, Form::Native(native) if native.takes_weight) {
            return Err(refused(
                "its own computation dequantizes the weight, whose last block isn't full; leave `--adapter-form native` away",
            ));
        }
    }
    Ok(())
}
