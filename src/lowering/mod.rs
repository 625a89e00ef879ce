//! Lowering: rewrites a prepared graph for the processor, into one graph for prompts and one for
//! decode steps. They compute the same.
//!
//! A prepared graph computes `y = x Wᵀ` for every linear layer, with the weight as the checkpoint
//! stores it. On a CPU, ONNX Runtime computes other forms of the product faster, and which one is
//! fastest depends on the number of tokens. Prompts and decode steps therefore have separate
//! sessions, which share the cache and, through the page cache, the weights:
//!
//! | | prompts | decode steps |
//! | --- | --- | --- |
//! | mapped | in blocks ([`blocked`]), from a mapped file ([`laid_out_files`]) | as for prompts |
//! | resident | in blocks, read into memory | as for prompts |
//! | in place | if short, weights on the left ([`weights_on_the_left`]) | as prepared |
//!
//! What latent attention with a compressed cache divides by heads is in such a file too ([`divided`]).
//!
//! The experts of a layer become one node ([`experts`]) if their weights are in such a file, or
//! quantized.
//!
//! A quantized model has one session, in which products with the same input are joined
//! ([`quantized`]); products with float weights stay as prepared.
//!
//! Graphs are lowered when a session is opened. The prepared folder keeps the graph as exported,
//! which any ONNX Runtime can run. The exporter wrote each node's [`Role`](crate::graph::Role) onto
//! it; a node with a role that can't be lowered is reported ([`NotLowered`]). Only ONNX Runtime's
//! own operators are used. `docs/performance.md` has the gain of each form.

pub mod block_size;
pub mod blocked;
pub mod divided;
pub mod experts;
pub mod gathered;
pub mod host_side;
mod joined_products;
pub mod laid_out_files;
pub mod laid_out_tensor;
pub mod layers_on_cpu;
pub mod model_file;
mod not_lowered;
mod products;
pub mod quantized;
#[cfg(test)]
mod tests;
mod weights_mode;
pub mod weights_on_the_left;

use std::path::Path;

pub use not_lowered::NotLowered;
pub use weights_mode::WeightsMode;

use crate::graph::for_one_length;
use crate::graph::proto::Model;
use crate::onnxruntime::Provider;
use blocked::Runs;
use laid_out_files::LaidOutFiles;
use laid_out_tensor::{LaidOutTensor, LayOutError};

/// The longest prompt, in tokens, that's run with weights on the left. For longer ones, copying the
/// tokens costs as much as it saves.
pub const SHORT_PROMPT: usize = 128;

/// Chunk size in tokens; a longer prompt is run chunk by chunk. ONNX Runtime computes attention
/// scores of later positions, too, and discards them; in chunks, there are fewer of these. Smaller
/// chunks make the matrix products slower.
pub const CHUNK: usize = 256;

/// What a graph is lowered for.
#[derive(Debug, Clone, Copy)]
pub struct LoweringTarget {
    /// The execution provider.
    pub provider: Provider,
    /// How weights are held in memory.
    pub weights: WeightsMode,
    /// Sequences generated at once.
    pub sequences: usize,
}

/// The lowered graphs of a variant, one for each session.
#[derive(Debug)]
pub struct LoweredGraphs {
    /// For decode steps, and for prompts that `prompt` isn't used for.
    pub step: Model,
    /// For runs of several tokens; `None` if `step` runs them, too.
    pub prompt: Option<Model>,
    /// Number of tokens from which on `prompt` isn't used.
    pub prompt_end: usize,
    /// Whether ONNX Runtime may pack (copy and reorder) the weights of `step`.
    pub packs_step: bool,
    /// The nodes with a role that couldn't be lowered.
    pub not_lowered: Vec<NotLowered>,
}

impl LoweredGraphs {
    /// All graphs.
    pub fn models(&self) -> impl Iterator<Item = &Model> {
        self.prompt.iter().chain([&self.step])
    }
}

/// The tensors to lay out for `model`. The tensors of a group must be contiguous in the file.
fn to_lay_out(model: &Model, block: usize) -> Vec<Vec<LaidOutTensor>> {
    let mut groups = blocked::to_lay_out(model, block);
    groups.extend(experts::stacked::to_lay_out(model));
    groups.extend(divided::to_lay_out(model));
    groups
}

/// Lays out the weights of `model`, which is in `folder`, in blocks of `block` channels, unless
/// that's done already. Before a file is written, `begin` is called with its size in bytes. `None`
/// for a quantized model, whose weights are used as stored.
///
/// # Errors
/// If a file can't be read or written.
pub fn lay_out(
    model: &Model,
    folder: &Path,
    block: usize,
    begin: &dyn Fn(u64),
) -> Result<Option<LaidOutFiles>, LayOutError> {
    if quantized::is_quantized(model) {
        return Ok(None);
    }
    let files = LaidOutFiles::open_or_write(to_lay_out(model, block), folder, block, begin)?;
    Ok(Some(files))
}

/// Lowers `model` for `target`; `files` are its laid-out weights, if any.
///
/// # Errors
/// If the metadata of a weight's file can't be read.
pub fn lower(
    model: Model,
    target: LoweringTarget,
    files: Option<&LaidOutFiles>,
) -> Result<LoweredGraphs, LayOutError> {
    let mut model = model;
    for_one_length(&mut model);
    let mut made = rewritten(model, target, files)?;
    let graphs = made.prompt.iter_mut().chain([&mut made.step]);
    graphs.for_each(products::remove_roles);
    Ok(made)
}

/// The lowered graphs, with the roles still on the nodes.
fn rewritten(
    model: Model,
    target: LoweringTarget,
    files: Option<&LaidOutFiles>,
) -> Result<LoweredGraphs, LayOutError> {
    let mut made = LoweredGraphs {
        packs_step: quantized::needs_packing(&model) || target.weights == WeightsMode::Resident,
        step: model,
        prompt: None,
        prompt_end: usize::MAX,
        not_lowered: Vec::new(),
    };
    if target.provider == Provider::Cpu {
        host_side::take_lengths(&mut made.step, target.sequences);
        host_side::give_logits_alone(&mut made.step);
    } else {
        host_side::take_lengths_of_attention(&mut made.step, target.sequences);
        let reason = "there is no other form for a GPU";
        made.not_lowered = experts::all_refused(&made.step, reason);
    }
    if quantized::is_quantized(&made.step) {
        if target.provider == Provider::Cpu {
            made.not_lowered = experts::quantized::fuse(&mut made.step);
        }
        quantized::join(&mut made.step, target.provider);
        return Ok(made);
    }
    let sequences = target.sequences;
    if let Some(files) = files {
        made.packs_step = false;
        made.not_lowered = experts::stacked::fuse(&mut made.step, files)?;
        divided::take(&mut made.step, files)?;
        let mut prompt = made.step.clone();
        let left = blocked::rewrite(&mut prompt, files, Runs::Prompt(sequences))?;
        made.not_lowered.extend(left);
        // Several sequences are several rows, even in a decode step.
        if sequences > 1 {
            made.step = prompt;
        } else {
            blocked::rewrite(&mut made.step, files, Runs::Step)?;
            made.prompt = Some(prompt);
        }
        return Ok(made);
    }
    // 16-bit weights are widened when a session is opened, so a second session would hold a second
    // copy.
    let converted = products::Products::of(&made.step).any_is_converted();
    if target.provider == Provider::Cpu {
        let reason = "the single node needs a copy of their weights, which `--weights in-place` doesn't make";
        made.not_lowered = experts::all_refused(&made.step, reason);
    }
    if target.provider == Provider::Cpu && sequences == 1 && !converted {
        let mut prompt = made.step.clone();
        weights_on_the_left::transpose_products(&mut prompt);
        made.prompt = Some(prompt);
        made.prompt_end = SHORT_PROMPT + 1;
    }
    Ok(made)
}
