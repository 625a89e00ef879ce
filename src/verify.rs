//! Parity: do two variants of a model compute the same?

use crate::engine::{DecoderEngine, EngineError};
use crate::measure::timings::Engine;
use crate::weights::Dtype;

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
pub fn trace(
    engine: &mut DecoderEngine,
    prompt_ids: &[u32],
    count: usize,
) -> Result<Trace, EngineError> {
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
pub fn follow(
    engine: &mut DecoderEngine,
    prompt_ids: &[u32],
    tokens: &[u32],
) -> Result<Vec<Vec<f32>>, EngineError> {
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

    /// Steps in which `other` has its largest logit at the same token.
    pub fn agreeing_tokens(&self, other: &[Vec<f32>]) -> usize {
        let argmax = |row: &Vec<f32>| {
            let mut best = 0;
            for (index, value) in row.iter().enumerate() {
                if *value > row[best] {
                    best = index;
                }
            }
            best
        };
        let steps = self.tokens.iter().zip(other);
        steps
            .filter(|(token, row)| **token as usize == argmax(row))
            .count()
    }
}

/// How far apart the logits of the same arithmetic may lie, as a part of the largest. The merged weights
/// of a 16-bit model are rounded once more than the unmerged ones.
pub fn tolerance(dtype: Dtype) -> f32 {
    match dtype {
        Dtype::Float32 => 1e-4,
        Dtype::Float16 => 1e-2,
        Dtype::BFloat16 => 8e-2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace_of(logits: Vec<Vec<f32>>) -> Trace {
        Trace {
            tokens: vec![1; logits.len()],
            logits,
        }
    }

    #[test]
    fn differences_are_relative_to_the_largest_logit() {
        let trace = trace_of(vec![vec![1.0, 4.0], vec![0.0, 2.0]]);
        assert_eq!(trace.difference(&[vec![1.0, 4.0], vec![1.0, 2.0]]), 0.25);
        assert_eq!(trace.agreeing_tokens(&[vec![9.0, 4.0], vec![1.0, 2.0]]), 1);
    }

    #[test]
    fn a_nan_is_a_difference() {
        let trace = trace_of(vec![vec![1.0, 4.0]]);
        assert_eq!(trace.difference(&[vec![f32::NAN, 4.0]]), f32::INFINITY);
        let trace = trace_of(vec![vec![f32::INFINITY, 4.0]]);
        assert_eq!(trace.difference(&trace.logits), f32::INFINITY);
    }
}
