//! The same arithmetic, laid out for the processor: one graph for prompts and one for decode steps.
//!
//! A prepared graph has `y = x Wᵀ` for every linear layer, with the weight as the checkpoint stores it. ONNX Runtime's
//! matrix products on a CPU like other forms better, and which one depends on the number of tokens, so that a prompt
//! and a decode step are given sessions of their own over the same cache and, through the page cache, the same weights:
//!
//! | | prompts, if short | long prompts | decode steps |
//! | --- | --- | --- | --- |
//! | mapped | weights on the left ([`left`]) | as prepared | panels ([`panels`]), mapped from a file that's made once ([`pack`]) |
//! | in place | weights on the left | as prepared | as prepared |
//! | resident | as mapped | queries, keys and values at once ([`joined`]), packed by ONNX Runtime at the start | as mapped |
//!
//! Where there's such a file, the experts of a layer are one node ([`experts`]), for prompts and for decode steps.
//!
//! A quantized model has one session, in which products of one input are one ([`quantized`]); what stays float
//! is as prepared.
//!
//! Graphs are rewritten when a session is opened: the prepared folder keeps the plain one, which any ONNX Runtime can
//! run. No operator of ours is used. `docs/performance.md` has what each form is worth.

pub mod experts;
pub mod joined;
pub mod left;
pub mod pack;
pub mod panels;
pub mod piece;
mod products;
pub mod quantized;
#[cfg(test)]
mod tests;

use super::options::{EngineOptions, Provider, WeightsMode};
use crate::graph::proto::Model;
use pack::{PackError, PanelFiles};

/// Tokens up to which a prompt has weights on the left: beyond, copying the tokens costs what it saves.
pub const SHORT_PROMPT: usize = 128;

/// Tokens of a longer prompt that go through the graph at once. Attention over a chunk leaves out what comes after it,
/// which over a whole prompt is computed and thrown away; fewer rows make the products slower.
pub const CHUNK: usize = 256;

/// The graphs of a variant's sessions.
#[derive(Debug)]
pub struct Layouts {
    /// For decode steps, and for whatever has no graph of its own.
    pub step: Model,
    /// For runs of several tokens, at most [`SHORT_PROMPT`].
    pub short: Option<Model>,
    /// For runs of more tokens than `short` takes.
    pub long: Option<Model>,
    /// Whether ONNX Runtime packs the weights of `step`.
    pub packs_step: bool,
    /// Whether it packs those of `long`.
    pub packs_long: bool,
}

/// Rewrites `model` for sessions that are opened with `options`. With mapped weights, `panels` has to be made ready
/// first.
///
/// # Errors
/// If the panels can't be read.
pub fn layouts(
    model: Model,
    options: &EngineOptions,
    panels: &PanelFiles,
) -> Result<Layouts, PackError> {
    let resident = options.weights == WeightsMode::Resident;
    let mut made = Layouts {
        packs_step: resident || quantized::needs_packing(&model),
        packs_long: resident,
        step: model,
        short: None,
        long: None,
    };
    if quantized::is_quantized(&made.step) {
        quantized::join(&mut made.step);
        return Ok(made);
    }
    // Several sequences are several rows, even when decoding.
    if options.provider != Provider::Cpu || options.batch_size > 1 {
        return Ok(made);
    }
    let laid_out = options.wants_panels();
    if laid_out {
        experts::fuse(&mut made.step, panels)?;
    }
    let plain = made.step.clone();
    if laid_out {
        panels::rewrite(&mut made.step, panels)?;
        made.packs_step = false;
    }
    // Weights of 16 bits are widened when a session starts: another one would hold them once more.
    let converted = products::Products::of(&plain).any_is_converted();
    if !converted {
        let mut short = plain.clone();
        left::turn(&mut short);
        if laid_out {
            panels::rewrite_last(&mut short, panels)?;
        }
        made.short = Some(short);
    }
    if laid_out && (converted || options.max_length > SHORT_PROMPT) {
        let mut long = plain;
        if resident {
            joined::join(&mut long);
        }
        made.long = Some(long);
    }
    Ok(made)
}
