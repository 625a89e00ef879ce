//! Rewrites a prepared graph for the processor: the same arithmetic, with one graph for prompts and one for decode steps.
//!
//! A prepared graph has `y = x Wᵀ` for every linear layer, with the weight as the checkpoint stores it. ONNX Runtime's
//! matrix products on a CPU like other forms better, and which one depends on the number of tokens, so that a prompt
//! and a decode step are given sessions of their own over the same cache and, through the page cache, the same weights:
//!
//! | | prompts | decode steps |
//! | --- | --- | --- |
//! | mapped | in blocks of channels ([`blocked`]), mapped from a file that's made once ([`laid_out_files`]) | the same |
//! | resident | the same, read into memory | the same |
//! | in place | weights on the left ([`weights_on_the_left`]) if short, else as prepared | as prepared |
//!
//! Where there's such a file, or they are quantized, the experts of a layer are one node ([`experts`]).
//!
//! A quantized model has one session, in which products of one input are one ([`quantized`]); what stays float
//! is as prepared.
//!
//! Graphs are rewritten when a session is opened: the prepared folder keeps the plain one, which any ONNX Runtime can
//! run. What a node is in the decoder is read from its [`Role`](crate::graph::Role), which the exporter wrote onto it; what has a
//! role and can't be rewritten is reported ([`NotLowered`]). No operator of ours is used. `docs/performance.md` has what each form is worth.

pub mod block_size;
pub mod blocked;
pub mod experts;
pub mod host_side;
mod joined_products;
pub mod laid_out_files;
pub mod laid_out_tensor;
mod mode;
pub mod model_file;
mod not_lowered;
mod products;
pub mod quantized;
#[cfg(test)]
mod tests;
pub mod weights_on_the_left;

use std::path::Path;

pub use mode::WeightsMode;
pub use not_lowered::NotLowered;

use crate::graph::proto::Model;
use crate::onnxruntime::Provider;
use blocked::Runs;
use laid_out_files::LaidOutFiles;
use laid_out_tensor::{LaidOutTensor, LayOutError};

/// Tokens up to which a prompt has weights on the left: beyond, copying the tokens costs what it saves.
pub const SHORT_PROMPT: usize = 128;

/// Tokens of a longer prompt that go through the graph at once. Attention over a chunk leaves out what comes after it,
/// which over a whole prompt is computed and thrown away; fewer rows make the products slower.
pub const CHUNK: usize = 256;

/// What graphs are rewritten for.
#[derive(Debug, Clone, Copy)]
pub struct Lowering {
    /// Where they run.
    pub provider: Provider,
    /// How weights are held.
    pub weights: WeightsMode,
    /// Sequences that are generated at once.
    pub sequences: usize,
}

/// The graphs of a variant's sessions.
#[derive(Debug)]
pub struct Layouts {
    /// For decode steps, and for whatever has no graph of its own.
    pub step: Model,
    /// For runs of several tokens.
    pub prompt: Option<Model>,
    /// Tokens from which on that isn't used.
    pub prompt_end: usize,
    /// Whether ONNX Runtime packs the weights of `step`.
    pub packs_step: bool,
    /// What stays as prepared though another form is quicker.
    pub not_lowered: Vec<NotLowered>,
}

impl Layouts {
    /// All graphs.
    pub fn models(&self) -> impl Iterator<Item = &Model> {
        self.prompt.iter().chain([&self.step])
    }
}

/// The tensors that `model` wants laid out, in groups that shall follow each other.
fn wanted(model: &Model, block: usize) -> Vec<Vec<LaidOutTensor>> {
    let mut groups = blocked::wanted(model, block);
    groups.extend(experts::stacked::wanted(model));
    groups
}

/// Lays out the weights of `model`, in `folder`, in blocks of `block` channels, where that isn't done yet. `begin` gets the
/// size of a file that has to be written. `None` for quantized weights, which are read as they are.
///
/// # Errors
/// If a file can't be read or written.
pub fn make_ready(
    model: &Model,
    folder: &Path,
    block: usize,
    begin: &dyn Fn(u64),
) -> Result<Option<LaidOutFiles>, LayOutError> {
    if quantized::is_quantized(model) {
        return Ok(None);
    }
    let files = LaidOutFiles::make_ready(wanted(model, block), folder, block, begin)?;
    Ok(Some(files))
}

/// Rewrites `model` for `target`; `files` has what's laid out for it, if anything is.
///
/// # Errors
/// If a source's file can't be asked for its size.
pub fn layouts(
    model: Model,
    target: Lowering,
    files: Option<&LaidOutFiles>,
) -> Result<Layouts, LayOutError> {
    let mut made = rewritten(model, target, files)?;
    let graphs = made.prompt.iter_mut().chain([&mut made.step]);
    graphs.for_each(products::take_roles_off);
    Ok(made)
}

/// The rewritten graphs, with the roles still on their nodes.
fn rewritten(
    model: Model,
    target: Lowering,
    files: Option<&LaidOutFiles>,
) -> Result<Layouts, LayOutError> {
    let mut made = Layouts {
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
        let reason = "on a GPU, they have no other form here";
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
        let mut prompt = made.step.clone();
        let left = blocked::rewrite(&mut prompt, files, Runs::Prompt(sequences))?;
        made.not_lowered.extend(left);
        // Several sequences are several rows, even when decoding.
        if sequences > 1 {
            made.step = prompt;
        } else {
            blocked::rewrite(&mut made.step, files, Runs::Step)?;
            made.prompt = Some(prompt);
        }
        return Ok(made);
    }
    // Weights of 16 bits are widened when a session starts: another one would hold them once more.
    let converted = products::Products::of(&made.step).any_is_converted();
    if target.provider == Provider::Cpu {
        let reason = "one node for them takes a copy of their weights, which `--weights in-place` does without";
        made.not_lowered = experts::all_refused(&made.step, reason);
    }
    if target.provider == Provider::Cpu && sequences == 1 && !converted {
        let mut prompt = made.step.clone();
        weights_on_the_left::turn(&mut prompt);
        made.prompt = Some(prompt);
        made.prompt_end = SHORT_PROMPT + 1;
    }
    Ok(made)
}
