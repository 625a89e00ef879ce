//! Which tokens a variant may pick: what it's timed with must generate what was checked.
//!
//! A timed run is another process, with a cache of another length, and perhaps another order of
//! sums. So where two logits are all but equal, either token may come out, and everything after
//! that differs rightly. That's a tie: the comparison ends there. Any other token means that
//! something else was timed than what was checked.

use serde::{Deserialize, Serialize};

use super::tolerance::tolerance;
use crate::weights::Dtype;

/// If more tokens than this are near the best, the step tells nothing.
const MOST: usize = 100;

/// What a variant may pick after a prompt, token by token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Picks(Vec<Pick>);

/// What it may pick in a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Pick {
    /// The token that it was fed afterwards. The following steps hold for this one alone.
    fed: u32,
    /// Tokens whose logit is within rounding of the largest, the best first; empty if there are too
    /// many.
    near: Vec<u32>,
}

/// What came of comparing a run's tokens with picks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Followed {
    /// So many tokens are the same, and there were no more to compare.
    Same(usize),
    /// After so many tokens, it took another one that's as likely: a tie, or the variant's own
    /// choice, which the one that led the check doesn't share.
    Parted(usize),
    /// It took a token that it shouldn't have.
    Differs(WrongToken),
}

/// A token that a run shouldn't have taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrongToken {
    /// Its place among the new ones, from 0.
    pub at: usize,
    /// What the run took.
    pub found: u32,
    /// What was expected.
    pub expected: u32,
}

impl Followed {
    /// Adds the tokens that are the same to `tokens`, and a parted run to `parted`. Returns the token
    /// that's wrong, if one is.
    pub fn count(self, tokens: &mut usize, parted: &mut usize) -> Option<WrongToken> {
        let (same, wrong) = match self {
            Self::Same(count) => (count, None),
            Self::Parted(count) => {
                *parted += 1;
                (count, None)
            }
            Self::Differs(wrong) => (wrong.at, Some(wrong)),
        };
        *tokens += same;
        wrong
    }
}

impl Picks {
    /// Picks from `logits`, `[tokens, vocab_size]`, of a variant that was fed `tokens`.
    pub(super) fn new(tokens: &[u32], logits: &[Vec<f32>], dtype: Dtype) -> Self {
        let steps = tokens.iter().zip(logits);
        let pick = |(&fed, row): (&u32, &Vec<f32>)| Pick {
            fed,
            near: near(row, tolerance(dtype, None, false)),
        };
        Self(steps.map(pick).collect())
    }

    /// Compares the tokens of a timed run.
    pub fn follow(&self, timed: &[u32]) -> Followed {
        for (at, (pick, &found)) in self.0.iter().zip(timed).enumerate() {
            let Some(&expected) = pick.near.first() else {
                return Followed::Parted(at);
            };
            if !pick.near.contains(&found) {
                return Followed::Differs(WrongToken {
                    at,
                    found,
                    expected,
                });
            }
            if found != pick.fed {
                return Followed::Parted(at);
            }
        }
        Followed::Same(self.0.len().min(timed.len()))
    }
}

/// Tokens whose logit is within `allowed` times the largest absolute one of the best.
fn near(row: &[f32], allowed: f32) -> Vec<u32> {
    let largest = row
        .iter()
        .fold(0.0_f32, |most, value| most.max(value.abs()));
    let best = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let least = best - allowed * largest;
    let mut near: Vec<usize> = (0..row.len()).filter(|&id| row[id] >= least).collect();
    if near.len() > MOST {
        return Vec::new();
    }
    near.sort_by(|&one, &other| row[other].total_cmp(&row[one]));
    near.into_iter().map(|id| id as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picks(dtype: Dtype) -> Picks {
        let logits = [
            vec![1.0, 8.0, 0.0],
            vec![0.0, 8.0, 7.97],
            vec![8.0, 1.0, 0.0],
        ];
        Picks::new(&[1, 1, 0], &logits, dtype)
    }

    #[test]
    fn the_same_tokens_are_the_same() {
        let picks = picks(Dtype::Float32);
        assert_eq!(picks.follow(&[1, 1, 0, 2, 2]), Followed::Same(3));
        assert_eq!(picks.follow(&[1]), Followed::Same(1));
        assert_eq!(picks.follow(&[]), Followed::Same(0));
    }

    #[test]
    fn another_token_is_a_tie_only_within_rounding() {
        let differs = Followed::Differs(WrongToken {
            at: 1,
            found: 2,
            expected: 1,
        });
        assert_eq!(picks(Dtype::Float32).follow(&[1, 2, 2]), differs);
        // What comes after a tie isn't known.
        assert_eq!(
            picks(Dtype::Float16).follow(&[1, 2, 2]),
            Followed::Parted(1)
        );
        let differs = Followed::Differs(WrongToken {
            at: 0,
            found: 0,
            expected: 1,
        });
        assert_eq!(picks(Dtype::Float16).follow(&[0, 1, 0]), differs);
    }

    #[test]
    fn a_variant_that_was_fed_anothers_tokens_goes_its_own_way() {
        // Its best is token 1, and it was fed token 0.
        let picks = Picks::new(&[0, 0], &[vec![1.0, 8.0], vec![9.0, 0.0]], Dtype::Float32);
        assert_eq!(picks.follow(&[1, 1]), Followed::Parted(0));
        assert!(matches!(
            picks.follow(&[0, 0]),
            Followed::Differs(WrongToken { at: 0, .. })
        ));
    }

    #[test]
    fn a_step_in_which_everything_is_near_tells_nothing() {
        let flat = vec![1.0; MOST + 1];
        let picks = Picks::new(&[0], &[flat], Dtype::Float32);
        assert_eq!(picks.follow(&[77]), Followed::Parted(0));
    }
}
