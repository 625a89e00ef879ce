//! What quantization, or an adapter, does to a model's predictions: the token distributions, position
//! by position, compared with the unquantized model's, or with the base's.

use serde::{Deserialize, Serialize};

use super::LogitEngine;
use super::trace::argmax;

/// How far a model's predictions are from a reference's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    /// `KL(reference ‖ model)` in nats, the mean over positions.
    pub mean_kl: f64,
    /// The largest over positions.
    pub max_kl: f64,
    /// Number of positions with the same most likely token.
    pub same_top: usize,
    /// Number of positions that were compared.
    pub positions: usize,
}

/// The logits after each token of `prompt_ids`, `[positions, vocab_size]`.
///
/// # Errors
/// If the engine fails.
pub fn at_each_position<E: LogitEngine>(
    engine: &mut E,
    prompt_ids: &[u32],
) -> Result<Vec<Vec<f32>>, E::Error> {
    let Some((&first, others)) = prompt_ids.split_first() else {
        return Ok(Vec::new());
    };
    engine.prefill(&[first])?;
    let mut rows = vec![engine.logits()];
    for &token in others {
        engine.decode(token)?;
        rows.push(engine.logits());
    }
    Ok(rows)
}

impl Divergence {
    /// Compares the logits of `model` with those of `reference`, position by position; both are
    /// `[positions, vocab_size]`. If one has more tokens, the two are compared by those that both
    /// have.
    pub fn between(reference: &[Vec<f32>], model: &[Vec<f32>]) -> Self {
        let mut found = Self {
            mean_kl: 0.0,
            max_kl: 0.0,
            same_top: 0,
            positions: reference.len().min(model.len()),
        };
        for (reference, model) in reference.iter().zip(model) {
            let known = reference.len().min(model.len());
            let (reference, model) = (&reference[..known], &model[..known]);
            let kl = kl(reference, model);
            found.mean_kl += kl / found.positions as f64;
            // `f64::max` would drop a NaN.
            if kl.is_nan() || kl > found.max_kl {
                found.max_kl = kl;
            }
            found.same_top += usize::from(argmax(reference) == argmax(model));
        }
        found
    }
}

/// `Σ p (ln p − ln q)`, with `p` and `q` the softmax of the two rows.
fn kl(p: &[f32], q: &[f32]) -> f64 {
    let (p_sum, q_sum) = (log_sum_exp(p), log_sum_exp(q));
    p.iter()
        .zip(q)
        .map(|(&p, &q)| {
            let (p, q) = (f64::from(p) - p_sum, f64::from(q) - q_sum);
            p.exp() * (p - q)
        })
        .sum()
}

fn log_sum_exp(row: &[f32]) -> f64 {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let largest = f64::from(largest);
    let sum: f64 = row.iter().map(|&x| (f64::from(x) - largest).exp()).sum();
    largest + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergences_are_those_of_the_softmax() {
        // p = (1/4, 3/4), q = (1/2, 1/2): ln 2 − H(p).
        let p = vec![0.0, 3.0_f32.ln()];
        let found = Divergence::between(&[p.clone(), p.clone()], &[vec![5.0, 5.0], p]);
        let expected = 0.25 * 0.5_f64.ln() + 0.75 * 1.5_f64.ln();
        assert!((found.max_kl - expected).abs() < 1e-7, "{found:?}");
        assert!((found.mean_kl - expected / 2.0).abs() < 1e-7, "{found:?}");
        // `argmax` takes the first of two equal logits; the reference's largest is the second.
        assert_eq!((found.same_top, found.positions), (1, 2));
    }

    #[test]
    fn tokens_that_only_one_of_two_models_has_are_left_out() {
        let small = vec![vec![1.0, 2.0]];
        let large = vec![vec![1.0, 2.0, 9.0]];
        for (reference, model) in [(&small, &large), (&large, &small)] {
            let found = Divergence::between(reference, model);
            assert_eq!((found.max_kl, found.same_top), (0.0, 1));
        }
    }

    #[test]
    fn a_shift_of_all_logits_changes_nothing_and_a_nan_shows() {
        let row = vec![1.0, -2.0, 800.0];
        let shifted: Vec<f32> = row.iter().map(|x| x + 64.0).collect();
        assert_eq!(
            Divergence::between(std::slice::from_ref(&row), &[shifted]).max_kl,
            0.0
        );
        let broken = vec![1.0, f32::NAN, 3.0];
        let found = Divergence::between(&[row.clone(), row.clone()], &[broken, row]);
        assert!(found.max_kl.is_nan() && found.mean_kl.is_nan());
    }
}
