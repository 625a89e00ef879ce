//! `manifest.json`: what a prepared folder holds, and what it was made from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Variant;
use super::quantization::QuantizationSummary;
use crate::adapter::{AdapterForm, Task};
use crate::files::write_file;
use crate::graph::AttentionOperator;
use crate::quantize::Quantization;
use crate::weights::Dtype;

/// A manifest that can't be read.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
pub enum ManifestError {
    #[error("cannot read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot parse `{}`", path.display())]
    Parse {
        path: PathBuf,
        source: serde_json::Error,
    },
}

/// What a prepared folder holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    /// This program's version.
    pub version: String,
    /// Of everything that the folder was made from.
    pub fingerprint: String,
    /// What making it took, in seconds: merging and exporting, without loading the adapter.
    pub prepare_seconds: f64,
    /// What laying out its own weights for this processor took after that, in seconds, where that was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lay_out_seconds: Option<f64>,
    /// Which variant it is.
    pub variant: Variant,
    /// The base model, as it was named.
    pub model_id: String,
    /// The base model's folder.
    pub model_folder: PathBuf,
    /// Whether the base's weights are random numbers.
    pub synthetic: bool,
    /// The dtype that weights were rounded to.
    pub dtype: Dtype,
    /// The dtype of the graph's arithmetic.
    pub compute: Dtype,
    /// What its attention is made of.
    #[serde(default)]
    pub attention: AttentionOperator,
    /// Rows of the head.
    pub vocab_size: usize,
    /// Positions that the model was made for.
    pub max_position_embeddings: usize,
    /// Why there are no more, where the model was made for more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positions_end: Option<String>,
    /// Width of the token embedding.
    pub embedding_dim: usize,
    /// The cache of each layer: heads, width of a head in the graph.
    pub cache: Vec<(usize, usize)>,
    /// Width of a head in the checkpoint; the graph's may be wider.
    pub head_dim: usize,
    /// Distinct parameters of the base.
    pub base_params: usize,
    /// Bytes of the base's tensors as stored.
    pub base_bytes: u64,
    /// Whether routers send each token to some of many experts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub routed: bool,
    /// Whether the adapter leaves quantized weights of its own, in a file beside its tensors.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_residuals: bool,
    /// What a decode step must read.
    pub reads: DecodeReads,
    /// What is quantized, and how; absent where nothing is.
    #[serde(default)]
    pub quantization: Option<QuantizationSummary>,
    /// The adapter, in variants that have one.
    pub adapter: Option<AdapterSummary>,
}

/// Bytes that a decode step must read, in the dtype of the arithmetic or as they're quantized: the floor of its time is these
/// over the memory's bandwidth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecodeReads {
    /// Weights, but for the rows of an embedding that one token doesn't need.
    pub weight_bytes: u64,
    /// The adapter's tensors, with the same exception.
    pub adapter_bytes: u64,
    /// Keys and values, for each cached position.
    pub cache_bytes_per_position: u64,
}

impl DecodeReads {
    /// Bytes of a step behind `positions` cached ones.
    pub fn bytes(&self, positions: f64) -> f64 {
        let fixed = self.weight_bytes + self.adapter_bytes;
        fixed as f64 + positions * self.cache_bytes_per_position as f64
    }
}

/// An adapter, in a manifest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AdapterSummary {
    /// The experiment: `<method>--<name>`.
    pub experiment: String,
    /// Its folder.
    pub folder: PathBuf,
    /// `peft_type`
    pub peft_type: String,
    /// `adapter_config.json`
    pub config: serde_json::Value,
    /// Whether its values were drawn fresh.
    pub fresh: bool,
    /// Trainable parameters, as PEFT counts them.
    pub trainable_params: usize,
    /// Of base and adapter together.
    pub total_params: usize,
    /// Bytes of its tensors as stored; for a fresh one in float32.
    pub stored_bytes: u64,
    /// Inputs of the unmerged graph, in `adapter.safetensors`.
    pub inputs: Vec<String>,
    /// Which nodes they are bound to.
    #[serde(default)]
    pub adapter_form: AdapterForm,
    /// For each input that some value makes do nothing, that value.
    #[serde(default)]
    pub neutral: BTreeMap<String, f32>,
    /// What goes in front of the prompt.
    pub prompt: Option<PromptKind>,
    /// Tokens of the prompt from whose last occurrence on it acts; `None` where it always does.
    #[serde(default)]
    pub invocation: Option<Vec<u32>>,
    /// Whether what it computes depends on all tokens of a call together.
    #[serde(default)]
    pub whole_calls: bool,
    /// The task that it was prepared for; `None` where its method has none.
    #[serde(default)]
    pub task: Option<Task>,
    /// What users should be told of how it's taken.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// What prompt learning puts in front of the prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptKind {
    /// Rows in front of the embeddings.
    VirtualTokens(usize),
    /// Rows of the cache.
    Prefix(usize),
}

impl PromptKind {
    /// Tokens that it adds to the sequence.
    pub fn num_virtual_tokens(self) -> usize {
        match self {
            Self::VirtualTokens(count) | Self::Prefix(count) => count,
        }
    }
}

impl Manifest {
    /// The file's name.
    pub const FILE: &str = "manifest.json";

    /// Reads the manifest of `folder`.
    ///
    /// # Errors
    /// If it's missing, or isn't this program's.
    pub fn read(folder: &Path) -> Result<Self, ManifestError> {
        let path = folder.join(Self::FILE);
        let text = fs::read(&path).map_err(|source| ManifestError::Read {
            path: path.clone(),
            source,
        })?;
        serde_json::from_slice(&text).map_err(|source| ManifestError::Parse { path, source })
    }

    /// Writes it into `folder`.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        write_file(&folder.join(Self::FILE), &text)
    }

    /// `prompt_ids` and, where the adapter waits for an invocation that isn't in them, that behind them: for whoever
    /// wants to see the adapter act.
    pub fn invoking(&self, prompt_ids: &[u32]) -> Vec<u32> {
        let adapter = self.adapter.as_ref();
        let wanted = adapter.and_then(|adapter| adapter.invocation.as_deref());
        let wanted = wanted.filter(|ids| !prompt_ids.windows(ids.len()).any(|place| place == *ids));
        [prompt_ids, wanted.unwrap_or_default()].concat()
    }

    /// How weights are quantized, if they are.
    pub fn quantization(&self) -> Option<Quantization> {
        Some(self.quantization.as_ref()?.quantization)
    }

    /// Tokens in front of the prompt.
    pub fn num_virtual_tokens(&self) -> usize {
        let prompt = self.adapter.as_ref().and_then(|adapter| adapter.prompt);
        prompt.map_or(0, PromptKind::num_virtual_tokens)
    }
}
