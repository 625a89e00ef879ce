//! What generations take more than others of the same rounds.

use super::mixed::MixedRun;
use crate::measure::stats::{Overhead, Pair, paired_overhead};
use crate::measure::timings::GenerationTimings;

/// Additional times, from pairs of runs of the same round.
#[derive(Debug, Clone, PartialEq)]
pub struct Against {
    /// Of whole generations.
    pub generation: Option<Overhead>,
    /// Of the first token.
    pub first_token: Option<Overhead>,
    /// Of a decode step: the mean step of each generation.
    pub decode_step: Option<Overhead>,
}

/// What `runs` take more than `others`, run by run.
pub fn against(others: &[MixedRun], runs: &[MixedRun], seed: u64) -> Against {
    let over = |seconds: &dyn Fn(&GenerationTimings) -> Option<f64>| {
        let pairs = others.iter().zip(runs).map(|(other, run)| {
            Some(Pair {
                base: seconds(&other.timings)?,
                variant: seconds(&run.timings)?,
                start: run.start,
            })
        });
        let pairs: Option<Vec<Pair>> = pairs.collect();
        paired_overhead(&[pairs?], seed).ok()
    };
    Against {
        generation: over(&|timings| Some(timings.total().as_secs_f64())),
        first_token: over(&|timings| Some(timings.time_to_first_token.as_secs_f64())),
        decode_step: over(&GenerationTimings::decode_time_per_token_mean),
    }
}
