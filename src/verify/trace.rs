//! Tokens and their logits, and how far those of two engines lie apart.

use super::tolerance::Norm;
use crate::engine::DecoderEngine;
use crate::measure::timings::Engine;

/// An engine that shows the logits of its last token.
pub trait LogitEngine: Engine {
    /// The logits that the last token was picked from, `[vocab_size]`.
    fn logits(&self) -> Vec<f32>;
}

impl LogitEngine for DecoderEngine {
    fn logits(&self) -> Vec<f32> {
        Self::logits(self)
    }
}

/// Tokens, and the logits that each was picked from.
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

/// The logits of each step where the engine is given `tokens`, whatever it would have picked itself.
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
    /// `max |a - b| / max |a|` over all steps.
    pub fn difference(&self, other: &[Vec<f32>]) -> f32 {
        let pairs = self.logits.iter().flatten().zip(other.iter().flatten());
        let (mut largest, mut difference) = (0.0_f32, 0.0_f32);
        for (a, b) in pairs {
            largest = largest.max(a.abs());
            // A NaN must not pass: `max` would drop it, and so would a quotient of two infinities.
            let step = (a - b).abs();
            if !step.is_finite() {
                return f32::INFINITY;
            }
            difference = difference.max(step);
        }
        difference / largest.max(f32::MIN_POSITIVE)
    }

    /// `rms(a - b) / rms(a)` over all steps: what rounding does to most logits, and not to the one that it hits hardest.
    fn mean_difference(&self, other: &[Vec<f32>]) -> f32 {
        let pairs = self.logits.iter().flatten().zip(other.iter().flatten());
        let (mut size, mut difference) = (0.0_f64, 0.0_f64);
        for (&a, &b) in pairs {
            size += f64::from(a).powi(2);
            difference += (f64::from(a) - f64::from(b)).powi(2);
        }
        let ratio = (difference / size.max(f64::MIN_POSITIVE)).sqrt();
        if ratio.is_finite() {
            ratio as f32
        } else {
            f32::INFINITY
        }
    }

    /// The difference that variants of one model are judged by.
    pub(super) fn judged(&self, other: &[Vec<f32>], norm: Norm) -> f32 {
        match norm {
            Norm::Largest => self.difference(other),
            Norm::Mean => self.mean_difference(other),
        }
    }

    /// Steps in which `other` has its largest logit at the same token.
    pub fn agreeing_tokens(&self, other: &[Vec<f32>]) -> usize {
        let steps = self.tokens.iter().zip(other);
        steps
            .filter(|(token, row)| **token as usize == argmax(row))
            .count()
    }
}

/// The place of the largest value, the first of several.
pub(super) fn argmax(row: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = index;
        }
    }
    best
}
