//! The same arithmetic, laid out for the processor: one graph for prompts and one for decode steps.
//!
//! A prepared graph has `y = x Wᵀ` for every linear layer, with the weight as the checkpoint stores it. ONNX Runtime's
//! matrix products on a CPU like other forms better, and which one depends on the number of tokens, so that a prompt
//! and a decode step are given sessions of their own over the same cache and, through the page cache, the same weights:
//!
//! | | prompts | decode steps |
//! | --- | --- | --- |
//! | mapped | weights on the left ([`left`]) | panels ([`panels`]), mapped from a file that's made once ([`pack`]) |
//! | in place | weights on the left | as prepared |
//! | resident | weights on the left, if short; else as for decode steps | queries, keys and values at once ([`joined`]), packed by ONNX Runtime at the start |
//!
//! Graphs are rewritten when a session is opened: the prepared folder keeps the plain one, which any ONNX Runtime can
//! run. No operator of ours is used. `docs/performance.md` has what each form is worth.

pub mod joined;
pub mod left;
pub mod pack;
pub mod panels;
mod products;
#[cfg(test)]
mod tests;

use super::options::{EngineOptions, Provider, WeightsMode};
use crate::graph::proto::Model;
use pack::{PackError, PanelFiles};

/// Tokens of a prompt that go through the graph at once. Up to about so many, weights on the left are the fastest form;
/// and attention over a chunk leaves out what comes after it, which over a whole prompt is computed and thrown away.
pub const PROMPT_CHUNK: usize = 128;

/// Tokens at once where ONNX Runtime has packed the weights: products of more rows are faster then.
pub const PACKED_CHUNK: usize = 256;

/// The graphs of a variant's sessions.
#[derive(Debug)]
pub struct Layouts {
    /// For decode steps; without `prompt`, for everything.
    pub step: Model,
    /// For runs of several tokens, at most [`PROMPT_CHUNK`].
    pub prompt: Option<Model>,
    /// Whether `step` takes several tokens at once as well.
    pub step_takes_prompts: bool,
}

/// Rewrites `model` for a session that's opened with `options`. With mapped weights, `panels` has to be made ready first.
///
/// # Errors
/// If the panels can't be read.
pub fn layouts(
    model: Model,
    options: &EngineOptions,
    panels: &PanelFiles,
) -> Result<Layouts, PackError> {
    let plain = |model| Layouts {
        step: model,
        prompt: None,
        step_takes_prompts: true,
    };
    // Several sequences are several rows, even when decoding.
    if options.provider != Provider::Cpu || options.batch_size > 1 {
        return Ok(plain(model));
    }
    // Weights of 16 bits are widened when a session starts: two sessions would hold them twice.
    let converted = products::Products::of(&model).any_is_converted();
    if converted && options.weights != WeightsMode::Mapped {
        return Ok(plain(model));
    }
    let mut prompt = model.clone();
    left::turn(&mut prompt);
    let mut step = model;
    match options.weights {
        WeightsMode::Mapped => {
            panels::rewrite(&mut step, panels)?;
            panels::rewrite_last(&mut prompt, panels)?;
        }
        WeightsMode::InPlace => {}
        WeightsMode::Resident => joined::join(&mut step),
    }
    Ok(Layouts {
        step,
        prompt: Some(prompt),
        step_takes_prompts: options.weights != WeightsMode::Mapped,
    })
}
