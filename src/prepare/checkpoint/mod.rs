//! Writes a whole merged model in Hugging Face layout, as Transformers' `from_pretrained` reads it.
//!
//! ```text
//! <folder>/  config.json, model.safetensors (or shards and their index), peft-bench.json,
//!            a tokenizer, and the base's generation file
//! ```
//!
//! Merged tensors are rounded once from float32. All others are copied byte for byte, or converted
//! a chunk at a time, so memory is bounded by threads × the largest changed tensor.

mod config;
mod folder;
mod layout;
mod older_keys;
mod packed;
mod shards;
#[cfg(test)]
mod tests;
mod tokenizer;

pub use config::model_config;
pub use tokenizer::copy_tokenizer;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use self::folder::CheckpointFolder;
use self::layout::{Layout, ValueSource};
pub use self::packed::PackedLayout;
use self::packed::Packing;
use self::shards::Shards;
use super::PrepareError;
use super::merge::{Change, changes};
use crate::adapter::{Adapter, AdapterError};
use crate::arch::{self, DecoderSpec, Module};
use crate::files::temporary_folder;
use crate::files::write_file;
use crate::model::BaseModel;
use crate::quantize::Quantization;
use crate::weights::Dtype;

/// Most bytes of tensors in one file, unless it contains a single larger tensor. Transformers
/// writes shards of the same size.
const SHARD_BYTES: u64 = 5_000_000_000;

/// A file that's copied if the base has it.
const GENERATION: &str = "generation_config.json";

/// How a checkpoint stores its weights.
#[derive(Debug, Clone, Copy, Default)]
pub struct CheckpointForm {
    /// The dtype of all tensors; `None` keeps the base's.
    pub dtype: Option<Dtype>,
    /// Quantizes the linear layers, except the head, in the format of the weights.
    pub quantization: Option<Quantization>,
    /// How quantized weights are stored.
    pub packing: PackedLayout,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointSummary {
    /// The folder, absolute.
    pub folder: PathBuf,
    /// Number of safetensors files.
    pub shards: usize,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of tensors that the adapter changed or added.
    pub merged: usize,
    /// Bytes of all tensors.
    pub tensor_bytes: u64,
    /// Number of weights that are quantized.
    pub quantized: usize,
    /// Whether the head shares the embedding's tensor.
    pub tied: bool,
    /// Tensors of the base that its architecture doesn't use; they're left out.
    pub dropped: Vec<String>,
}

/// Writes `base`, with `adapter` merged into it, to `folder`. Each tensor keeps the dtype that the
/// base stores it in, unless `form` says otherwise. If it's quantized, linear layers but the head
/// are packed as the form says. The tokenizer is copied from the folder `tokenizer`. A
/// folder that this function has written before is replaced once the new one is complete.
///
/// # Errors
/// If the adapter can't be merged, or adds a bias that Transformers' model class can't hold; if the
/// quantization can't be stored; if a converted or merged value isn't finite; if `folder` contains
/// anything else; if a file can't be written.
pub fn write_checkpoint(
    base: &BaseModel,
    adapter: Option<&Adapter>,
    form: CheckpointForm,
    tokenizer: &Path,
    folder: &Path,
) -> Result<CheckpointSummary, PrepareError> {
    write_sharded(base, adapter, form, tokenizer, folder, SHARD_BYTES)
}

/// Does what [`write_checkpoint`] does, with at most `shard_bytes` per file.
fn write_sharded(
    base: &BaseModel,
    adapter: Option<&Adapter>,
    form: CheckpointForm,
    tokenizer: &Path,
    folder: &Path,
    shard_bytes: u64,
) -> Result<CheckpointSummary, PrepareError> {
    let original = base;
    let is_in_out = |spec: DecoderSpec| spec.modules().iter().any(Module::is_stored_in_out);
    if base.stored.is_some() && arch::spec(&base.config).is_ok_and(is_in_out) {
        return Err(PrepareError::NoCheckpoint {
            reason: format!(
                "the quantized weights of `{}` have their outputs first, and `{}` models inputs first; take the 16-bit \
                 model that it was made from",
                base.id, base.spec.model_type
            ),
        });
    }
    let base = adapter.map_or(base, |adapter| adapter.base(base));
    let spec = adapter.map_or(&base.spec, |adapter| &adapter.spec);
    let modules = spec.modules();
    let changes = match adapter {
        Some(adapter) => changes(adapter, &modules)?,
        None => Vec::new(),
    };
    let CheckpointForm {
        dtype,
        quantization,
        packing,
    } = form;
    let packing = match quantization {
        Some(quantization) => Some(Packing::new(packing, quantization, spec)?),
        None => None,
    };
    let layout = Layout::new(base, adapter, &modules, &changes, dtype, packing)?;
    let parameters: Vec<(String, _)> = changes.iter().flat_map(Change::parameters).collect();
    let changed = parameters.iter().map(|(name, _)| layout.place_of(name).0);
    let changed: BTreeSet<&str> = changed.collect();

    let target = CheckpointFolder::new(folder, base, adapter)?;
    let partial = temporary_folder::create(target.parent()).map_err(target.failed(""))?;
    let made = partial.path();

    let shards = Shards::create(&layout.tensors, shard_bytes, made, target.path())?;
    if let Some(adapter) = adapter {
        changes.par_iter().try_for_each(|change| {
            change.apply(base, adapter, &|name, values| {
                let (tensor, first) = layout.place_of(name);
                shards.write(tensor, first, values)
            })
        })?;
    }
    layout
        .tensors
        .par_iter()
        .try_for_each(|tensor| match &tensor.values {
            ValueSource::Merged => Ok(()),
            ValueSource::Stored(stored) => shards.copy(&tensor.plan, 0, stored),
            ValueSource::Slices(slices) => slices
                .iter()
                .try_for_each(|(first, stored)| shards.copy(&tensor.plan, *first, stored)),
            ValueSource::Zeros => shards.write(&tensor.plan.name, 0, &vec![0.0; tensor.elements()]),
        })
        .map_err(AdapterError::from)?;
    let written = shards.finish()?;

    let write = |name: &str, text: String| {
        write_file(&made.join(name), text.as_bytes()).map_err(target.failed(name))
    };
    let quantization_config =
        packing.map(|packing| packing.config(spec, &layout.float, &layout.towers));
    let config = config::text(original, spec, &layout, dtype, quantization_config);
    write("config.json", config)?;
    copy(&base.folder, GENERATION, made)?;
    copy_tokenizer(tokenizer, made)?;
    write(folder::MARKER, folder::marker(base, adapter))?;
    temporary_folder::replace(made, target.path()).map_err(target.failed(""))?;

    let merged = |tensor: &&layout::Tensor| changed.contains(tensor.plan.name.as_str());
    Ok(CheckpointSummary {
        folder: target.path().to_owned(),
        shards: written.files,
        tensors: layout.tensors.len(),
        merged: layout.tensors.iter().filter(merged).count(),
        tensor_bytes: written.tensor_bytes,
        quantized: layout
            .tensors
            .iter()
            .filter(|tensor| tensor.packing.is_some())
            .count(),
        tied: layout.tied,
        dropped: layout.dropped,
    })
}

/// Copies `from/name` into `made`, if that file exists.
fn copy(from: &Path, name: &str, made: &Path) -> Result<(), PrepareError> {
    let from = from.join(name);
    if !from.is_file() {
        return Ok(());
    }
    let copied = fs::copy(&from, made.join(name));
    copied.map_err(|source| PrepareError::Copy { path: from, source })?;
    Ok(())
}
