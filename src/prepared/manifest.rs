//! `manifest.json`: what a prepared folder contains, and what it was made from.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Variant;
use super::base_quantization::BaseQuantization;
use super::foreign::ForeignGraphs;
use super::portable::{Portable, Sample};
use super::quantization::QuantizationSummary;
use crate::adapter::{AdapterForm, Task};
use crate::arch::{LatentCache, StateKind};
use crate::files::{self, write_file};
use crate::graph::AttentionOperator;
use crate::quantize::{Format, Quantization};
use crate::weights::Dtype;

/// A manifest that can't be read.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum ManifestError {
    #[error("cannot read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot parse `{}`", path.display())]
    Parse {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("`{}`: {what}", path.display())]
    Value { path: PathBuf, what: &'static str },
    #[error("`{}` names the file `{}`, which isn't a path inside its folder", path.display(), name.display())]
    Outside { path: PathBuf, name: PathBuf },
}

/// The content of `manifest.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    /// This program's version.
    pub version: String,
    /// Hash of everything that the folder was made from.
    pub fingerprint: String,
    /// Time to merge and export, in seconds, without loading the adapter.
    pub prepare_seconds: f64,
    /// Time to lay out the variant's own weights for this processor, in seconds, if that was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lay_out_seconds: Option<f64>,
    /// The variant.
    pub variant: Variant,
    /// The base model, as the user named it.
    pub model_id: String,
    /// The base model's folder. In the file, a relative path is one below the manifest's folder.
    pub model_folder: PathBuf,
    /// Whether the base's weights are random numbers.
    pub synthetic: bool,
    /// The dtype that the weights are rounded to.
    pub dtype: Dtype,
    /// The dtype of the graph's arithmetic.
    pub compute: Dtype,
    /// The operators that attention is built from.
    #[serde(default)]
    pub attention: AttentionOperator,
    /// What the cache of latent attention holds; `None` without latent attention.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mla: Option<LatentCache>,
    /// Vocabulary size: rows of the head.
    pub vocab_size: usize,
    /// Positions that are supported.
    pub max_position_embeddings: usize,
    /// Why there are no more positions, if the model was made for more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positions_end: Option<String>,
    /// Whether a prompt's tokens attend to all others, so that it can't be split into chunks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub whole_prompts: bool,
    /// The length beyond which all keys of a sequence are computed with other frequencies of the
    /// rotary embedding. When a sequence grows beyond it, what's cached must be computed again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frequencies_change_beyond: Option<usize>,
    /// Width of the token embedding.
    pub embedding_dim: usize,
    /// For each layer's keys and values: `(heads, width of a head in the graph)`; `None` if it has
    /// none.
    pub cache: Vec<Option<(usize, usize)>>,
    /// What layers keep in place of keys and values, or beside them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<LayerState>,
    /// Width of the widest head in the checkpoint; the graph's may be wider.
    pub head_dim: usize,
    /// Number of parameters of the base; shared ones count once.
    pub base_params: usize,
    /// Bytes of the base's tensors as stored.
    pub base_bytes: u64,
    /// Whether the model is a mixture of experts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub routed: bool,
    /// Whether the folder contains residual weights ([`RESIDUALS`](super::RESIDUALS)).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_residuals: bool,
    /// Bytes that a decode step must read.
    pub reads: DecodeReads,
    /// What is quantized, and how; `None` if nothing is.
    #[serde(default)]
    pub quantization: Option<QuantizationSummary>,
    /// What the base is if it's a quantized checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_quantization: Option<BaseQuantization>,
    /// The adapter, in variants that have one.
    pub adapter: Option<AdapterSummary>,
    /// How the graphs are fed, if another program exported them. No prepared folder has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foreign: Option<ForeignGraphs>,
    /// What a portable folder consists of; `None` in other folders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub portable: Option<Portable>,
}

/// A state of fixed size that a layer passes from token to token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerState {
    /// The layer's number.
    pub layer: usize,
    /// What the state holds.
    pub kind: StateKind,
    /// Its shape for one sequence.
    pub shape: Vec<usize>,
    /// Its dtype.
    pub dtype: Dtype,
}

impl LayerState {
    /// Its size for one sequence, in bytes.
    pub fn bytes(&self) -> usize {
        let elements = self.shape.iter().copied().fold(1, usize::saturating_mul);
        elements.saturating_mul(self.dtype.size())
    }
}

/// Bytes that a decode step must read, in the dtype of the arithmetic or as quantized. Divided by
/// the memory's bandwidth, they give a lower bound of its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecodeReads {
    /// The base's weights; of an embedding, only the row of one token.
    pub weight_bytes: u64,
    /// The adapter's tensors; of tables with a row per token, only one row.
    pub adapter_bytes: u64,
    /// Keys and values of one cached position, in all layers.
    pub cache_bytes_per_position: u64,
    /// States of fixed size, in all layers. They're written, too, which doesn't count.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub state_bytes: u64,
}

fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

impl DecodeReads {
    /// Bytes that a step reads when `positions` positions are cached.
    pub fn bytes(&self, positions: f64) -> f64 {
        let fixed = [self.weight_bytes, self.adapter_bytes, self.state_bytes];
        let fixed = fixed.into_iter().fold(0, u64::saturating_add);
        fixed as f64 + positions * self.cache_bytes_per_position as f64
    }
}

/// The adapter of a prepared variant.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AdapterSummary {
    /// The experiment: `<method>--<name>`.
    pub experiment: String,
    /// The experiment's folder. In the file, a relative path is one below the manifest's folder.
    pub folder: PathBuf,
    /// `peft_type`
    pub peft_type: String,
    /// The content of `adapter_config.json`.
    pub config: serde_json::Value,
    /// Whether its values were drawn at random.
    pub fresh: bool,
    /// Trainable parameters, as PEFT counts them.
    pub trainable_params: usize,
    /// Parameters of base and adapter together.
    pub total_params: usize,
    /// Bytes of its tensors as stored; a fresh adapter counts in float32.
    pub stored_bytes: u64,
    /// Inputs of the unmerged graph, in `adapter.safetensors` or in `file`.
    pub inputs: Vec<String>,
    /// The file of these tensors in a portable folder, where one graph has several adapters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// The form in which the adapter is computed.
    #[serde(default)]
    pub adapter_form: AdapterForm,
    /// The neutral value of each input that has one: filled with it, the input has no effect.
    #[serde(default)]
    pub neutral: BTreeMap<String, f32>,
    /// What prompt learning puts in front of the prompt, if the method does.
    pub prompt: Option<PromptKind>,
    /// The invocation tokens: the adapter acts from their last occurrence in the prompt on. `None`
    /// if it always acts.
    #[serde(default)]
    pub invocation: Option<Vec<u32>>,
    /// Whether its computation depends on all tokens of a call together, so that a prompt can't be
    /// split into chunks.
    #[serde(default)]
    pub whole_calls: bool,
    /// The task that it was prepared for; `None` if its method has no tasks.
    #[serde(default)]
    pub task: Option<Task>,
    /// Notes for the user on how the adapter is interpreted.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// What prompt learning puts in front of the prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptKind {
    /// This many rows in front of the prompt's embeddings.
    VirtualTokens(usize),
    /// This many rows of keys and values at the beginning of the cache.
    Prefix(usize),
}

impl PromptKind {
    /// Number of positions that it takes in the sequence.
    pub fn num_virtual_tokens(self) -> usize {
        match self {
            Self::VirtualTokens(count) | Self::Prefix(count) => count,
        }
    }
}

/// The manifest's own folder, as a path in it.
pub const HERE: &str = ".";

impl Manifest {
    /// The file's name.
    pub const FILE: &str = "manifest.json";

    /// Reads the manifest of `folder`.
    ///
    /// # Errors
    /// If it's missing, can't be parsed, or is that of a portable folder with files elsewhere.
    pub fn read(folder: &Path) -> Result<Self, ManifestError> {
        let path = folder.join(Self::FILE);
        let text = files::read(&path).map_err(|source| ManifestError::Read {
            path: path.clone(),
            source,
        })?;
        let read = serde_json::from_slice(&text);
        let mut manifest: Self = match read {
            Ok(manifest) => manifest,
            Err(source) => return Err(ManifestError::Parse { path, source }),
        };
        if let Some(what) = manifest.fault() {
            return Err(ManifestError::Value { path, what });
        }
        let mut named = manifest.portable.iter().flat_map(Portable::named);
        let outside = named
            .find(|name| !files::is_plain(name))
            .map(Path::to_owned);
        drop(named);
        if let Some(name) = outside {
            return Err(ManifestError::Outside { path, name });
        }
        let adapter = manifest.adapter.iter_mut();
        let folders = adapter.map(|adapter| &mut adapter.folder);
        for path in folders.chain([&mut manifest.model_folder]) {
            if path.is_relative() {
                *path = match path.as_os_str() == HERE {
                    true => folder.to_owned(),
                    false => folder.join(&path),
                };
            }
        }
        Ok(manifest)
    }

    /// What's in it that can't be, and what its readers rely on.
    fn fault(&self) -> Option<&'static str> {
        let portable = self.portable.iter();
        let beside = portable.clone().flat_map(|portable| &portable.adapters);
        let mut adapters = beside.clone().map(|own| &own.adapter).chain(&self.adapter);
        let samples = portable.flat_map(|portable| &portable.sample);
        let mut samples = samples.chain(beside.flat_map(|own| &own.sample));
        if self.vocab_size == 0 {
            return Some("`vocab_size` is 0, expected a positive integer");
        }
        if adapters.any(|adapter| adapter.invocation.as_ref().is_some_and(Vec::is_empty)) {
            return Some("`invocation` has no tokens, expected some, or null");
        }
        let is_whole = |sample: &Sample| {
            let lengths = [sample.token_ids.len(), sample.logits.len()];
            !sample.prompt_ids.is_empty() && lengths[0] > 0 && lengths[0] == lengths[1]
        };
        match samples.all(is_whole) {
            true => None,
            false => Some("a `sample` lacks tokens, or has not one logit for each"),
        }
    }

    /// Writes it into `folder`.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        write_file(&folder.join(Self::FILE), &text)
    }

    /// `prompt_ids`, with the invocation tokens appended if the adapter needs them and the prompt
    /// lacks them, so that the adapter acts.
    pub fn invoking(&self, prompt_ids: &[u32]) -> Vec<u32> {
        let adapter = self.adapter.as_ref();
        let wanted = adapter.and_then(|adapter| adapter.invocation.as_deref());
        let wanted = wanted.filter(|ids| !prompt_ids.windows(ids.len()).any(|place| place == *ids));
        [prompt_ids, wanted.unwrap_or_default()].concat()
    }

    /// How the weights are quantized, if they are.
    pub fn quantization(&self) -> Option<Quantization> {
        Some(self.quantization.as_ref()?.quantization)
    }

    /// What rounding the variant adds to that of its base's checkpoint: how its own weights are
    /// quantized, or the format whose rounding is about as coarse as a merge that rounds codes
    /// again, or as inputs of products in 8 bits.
    pub fn rounding(&self) -> Option<Quantization> {
        let of_base = self.base_quantization.as_ref().and_then(|base| {
            let format = match (base.requantized, base.accuracy_level) {
                (true, _) => Format::Int4Blocks32,
                (false, Some(4)) => Format::Int8Blocks32,
                _ => return None,
            };
            Some(Quantization::uniform(format))
        });
        self.quantization().or(of_base)
    }

    /// Number of virtual tokens in front of the prompt.
    pub fn num_virtual_tokens(&self) -> usize {
        let prompt = self.adapter.as_ref().and_then(|adapter| adapter.prompt);
        prompt.map_or(0, PromptKind::num_virtual_tokens)
    }
}
