//! `meta_info`: what it was measured on. Where nothing was prepared, it has `system_info` alone.

use std::path::PathBuf;

use serde::de::IntoDeserializer;
use serde::de::value::StrDeserializer;
use serde::{Deserialize, Serialize};

use super::Maybe;
use crate::adapter::{AdapterForm, Task};
use crate::arch::LatentCache;
use crate::quantize::{Accuracy, Format, FormatChoice, Parts, Quantization};
use crate::system::SystemInfo;
use crate::weights::Dtype;

/// What it was measured on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetaInfo {
    /// The base model, as it was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_id: Option<String>,
    /// Where the base's weights come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<BaseWeights>,
    /// The adapter; null without one.
    #[serde(default, skip_serializing_if = "Maybe::is_absent")]
    pub adapter: Maybe<AdapterInfo>,
    /// Which nodes the unmerged adapter has; null without an unmerged variant.
    #[serde(default, skip_serializing_if = "Maybe::is_absent")]
    pub adapter_form: Maybe<AdapterForm>,
    /// The task that was measured; null where the method has none.
    #[serde(default, skip_serializing_if = "Maybe::is_absent")]
    pub task: Maybe<Task>,
    /// Bytes of the unmerged adapter that a decode step reads; null without an unmerged variant.
    #[serde(default, skip_serializing_if = "Maybe::is_absent")]
    pub adapter_bytes_per_token: Maybe<u64>,
    /// What weights were rounded to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<Dtype>,
    /// What products are computed in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_dtype: Option<Dtype>,
    /// What the cache of latent attention holds; absent without latent attention.
    #[serde(default, skip_serializing_if = "Maybe::is_absent")]
    pub mla: Maybe<LatentCache>,
    /// What is quantized and how; null where nothing is.
    #[serde(default, skip_serializing_if = "Maybe::is_absent")]
    pub quantization: Maybe<QuantizationInfo>,
    /// The base's own quantization, if it's a quantized checkpoint; absent for any other.
    #[serde(default, skip_serializing_if = "Maybe::is_absent")]
    pub base_quantization: Maybe<BaseQuantizationInfo>,
    /// Counts of parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Parameters>,
    /// Sizes on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_size: Option<ModelSize>,
    /// Versions of programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package_info: Option<PackageInfo>,
    /// The machine.
    pub system_info: SystemInfo,
}

/// Where a base's weights come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BaseWeights {
    /// They are random numbers.
    Synthetic,
    /// From a checkpoint.
    Trained,
}

/// The adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AdapterInfo {
    /// As it's written today.
    Object {
        /// Where its weights come from.
        weights: AdapterWeights,
    },
    /// As it was written first: the name alone.
    Name(AdapterWeights),
}

/// Where an adapter's weights come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdapterWeights {
    /// They were drawn.
    Fresh,
    /// From a file.
    Trained,
}

impl AdapterInfo {
    /// Where its weights come from.
    pub fn weights(self) -> AdapterWeights {
        match self {
            Self::Object { weights } | Self::Name(weights) => weights,
        }
    }
}

/// What is quantized, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuantizationInfo {
    /// `rtn` (rounded to nearest), `search` or `k_quant` (searched, with zero points), or `nf4`.
    pub scheme: String,
    /// Bits of a code, in weights other than the head, keys, values and the embedding.
    pub bits: usize,
    /// Values that share a scale.
    pub block_size: usize,
    /// Whether zero is a code of every block, in its middle.
    pub symmetric: bool,
    /// The arithmetic of `MatMulNBits`; null where there's no choice.
    pub accuracy_level: Option<u8>,
    /// What the head is quantized to, or `float`.
    pub head: String,
    /// What layers are quantized to that compute keys or values alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_proj: Option<String>,
    /// What the token embedding is quantized to, or `float`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<String>,
    /// What stays as it is.
    pub float: Vec<String>,
    /// Weights that are quantized, a shared one once.
    pub quantized_weights: usize,
    /// Their codes and scales.
    pub quantized_size_mb: f64,
    /// Weights that the unmerged adapter has in float; null without an unmerged variant.
    #[serde(default, skip_serializing_if = "Maybe::is_absent")]
    pub replaced_by_unmerged: Maybe<usize>,
}

impl QuantizationInfo {
    /// The name that options and tables have for it, as far as this version knows its formats.
    pub fn label(&self) -> Option<String> {
        let weights = match self.scheme.as_str() {
            "nf4" => format_named("nf4")?,
            scheme => {
                let usual = format_named(&format!("{}bit", self.bits))?;
                let scheme = scheme.to_owned();
                usual.with(Some(&scheme), Some(self.block_size)).ok()?
            }
        };
        let part = |name: &str| self.part_named(name);
        let head = part(&self.head)?;
        let kv_proj = match self.kv_proj.as_deref() {
            Some(name) => part(name)?.format()?,
            None => weights,
        };
        let embedding = part(self.embedding.as_deref().unwrap_or(FLOAT))?;
        let accuracy = match self.accuracy_level {
            Some(level) => Some(Accuracy::try_from(level).ok()?),
            None => None,
        };
        let parts = Parts {
            head: Some(head),
            kv_proj: Some(kv_proj),
            embedding: Some(embedding),
            accuracy,
        };
        let quantization = Quantization::with(weights, parts).ok()?;
        Some(quantization.label())
    }

    /// What a part is, by its name; `None` if this version has no such format.
    fn part_named(&self, name: &str) -> Option<FormatChoice> {
        if name == FLOAT {
            return Some(FormatChoice::Float);
        }
        // Versions that didn't name keys and values had blocks of 32 by default.
        let name = match (name, &self.kv_proj) {
            ("4bit" | "8bit", None) => &format!("{name}-block-32"),
            _ => name,
        };
        Some(FormatChoice::Quantized(format_named(name)?))
    }
}

/// What a part is named that isn't quantized.
const FLOAT: &str = "float";

/// The format of that name.
fn format_named(name: &str) -> Option<Format> {
    let name: StrDeserializer<serde::de::value::Error> = name.into_deserializer();
    Format::deserialize(name).ok()
}

/// A base that's a quantized checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BaseQuantizationInfo {
    /// `quant_method` of its configuration.
    pub method: String,
    /// The scheme for readers: `GPTQ 4 bits, groups of 128`.
    pub scheme: String,
    /// Weights whose codes the graphs have as stored.
    pub kept_weights: usize,
    /// Their codes, scales and zero points.
    pub kept_size_mb: f64,
    /// Weights that are dequantized once.
    pub dequantized_weights: usize,
    /// These, as floats.
    pub dequantized_size_mb: f64,
    /// Why they're dequantized.
    pub dequantized_because: Vec<String>,
    /// The arithmetic of `MatMulNBits`; null where there's no choice.
    pub accuracy_level: Option<u8>,
    /// Weights in codes that the merge changed, and that the merged variant has as floats; null
    /// without a merged variant.
    pub changed_by_merge: Option<usize>,
    /// Weights in codes that the unmerged adapter has as floats; null without an unmerged variant.
    pub replaced_by_unmerged: Option<usize>,
    /// Whether merged weights were rounded to the scheme again.
    pub requantized: bool,
}

/// Counts of parameters, as PEFT's `get_nb_trainable_parameters` counts them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Parameters {
    /// Of the base.
    pub base_params: usize,
    /// Of the adapter.
    pub trainable_params: usize,
    /// Of both.
    pub total_params: usize,
    /// `trainable_params / total_params`
    pub param_ratio: f64,
}

/// Sizes on disk.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ModelSize {
    /// The base's tensors.
    pub base_model_size_mb: f64,
    /// The adapter's tensors; 0 without an adapter.
    pub adapter_size_mb: f64,
}

/// Versions of programs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PackageInfo {
    /// This program.
    pub peft_bench_version: String,
    /// The revision that it was built from.
    #[serde(default, skip_serializing_if = "Maybe::is_absent")]
    pub peft_bench_git_revision: Maybe<String>,
    /// ONNX Runtime.
    pub onnxruntime_version: Option<String>,
    /// Its library.
    #[serde(default, skip_serializing_if = "Maybe::is_absent")]
    pub onnxruntime_path: Maybe<PathBuf>,
}
