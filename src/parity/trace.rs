//! Traces: generated tokens with their logits, and the difference between two engines' traces.

use super::picks::Picks;
use super::tolerance::Norm;
use crate::engine::logits::{difference, mean_difference};
use crate::engine::{DecoderEngine, Engine, Runner};
use crate::weights::Dtype;

/// An engine that returns the logits of its last step.
pub trait LogitEngine: Engine {
    /// The last step's logits, `[vocab_size]`.
    fn logits(&self) -> Vec<f32>;
}

impl LogitEngine for DecoderEngine {
    fn logits(&self) -> Vec<f32> {
        Self::logits(self)
    }
}

impl LogitEngine for Runner {
    fn logits(&self) -> Vec<f32> {
        Self::logits(self)
    }
}

/// Generated tokens, and the logits that each was picked from.
#[derive(Debug, Clone)]
pub struct Trace {
    /// Greedy tokens.
    pub tokens: Vec<u32>,
    /// `[tokens, vocab_size]`
    pub logits: Vec<Vec<f32>>,
}

/// Generates `count` tokens greedily.
///
/// # Errors
/// If the engine fails.
pub fn trace<E: LogitEngine>(
    engine: &mut E,
    prompt_ids: &[u32],
    count: usize,
) -> Result<Trace, E::Error> {
    let mut tokens = vec![engine.prefill(prompt_ids)?];
    let mut logits = vec![engine.logits()];
    while tokens.len() < count {
        tokens.push(engine.decode(tokens[tokens.len() - 1])?);
        logits.push(engine.logits());
    }
    Ok(Trace { tokens, logits })
}

/// The logits of each step, `[tokens, vocab_size]`, when the engine is fed `tokens` instead of its
/// own choices.
///
/// # Errors
/// If the engine fails.
pub fn follow<E: LogitEngine>(
    engine: &mut E,
    prompt_ids: &[u32],
    tokens: &[u32],
) -> Result<Vec<Vec<f32>>, E::Error> {
    engine.prefill(prompt_ids)?;
    let mut logits = vec![engine.logits()];
    for &token in &tokens[..tokens.len().saturating_sub(1)] {
        engine.decode(token)?;
        logits.push(engine.logits());
    }
    Ok(logits)
}

impl Trace {
    /// What another run of the same may pick; weights were rounded to `dtype`.
    pub fn picks(&self, dtype: Dtype) -> Picks {
        Picks::new(&self.tokens, &self.logits, dtype)
    }

    /// `max |a - b| / max |a|` over all steps.
    pub fn difference(&self, other: &[Vec<f32>]) -> f32 {
        difference(&self.logits, other)
    }

    /// The difference to `other` in `norm`.
    pub(super) fn judged(&self, other: &[Vec<f32>], norm: Norm) -> f32 {
        match norm {
            Norm::Largest => self.difference(other),
            Norm::Mean => mean_difference(&self.logits, other),
        }
    }

    /// Number of steps in which `other` has its largest logit at the same token.
    pub fn agreeing_tokens(&self, other: &[Vec<f32>]) -> usize {
        let steps = self.tokens.iter().zip(other);
        steps
            .filter(|(token, row)| **token as usize == argmax(row))
            .count()
    }
}

/// The index of the largest value; of equal ones, the first.
pub(super) fn argmax(row: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = index;
        }
    }
    best
}
