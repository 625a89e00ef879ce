//! Adapter swaps: the time to bind another adapter to an open session, and whether the first token
//! after it takes longer.
//!
//! ```text
//! swap   first token   first token   swap   first token   first token   …
//!        after it      without one          after it      without one
//! ```
//!
//! All adapters are in memory and are bound in turn. The two first tokens measured after a swap
//! make a pair.

use serde::{Deserialize, Serialize};

use super::stats::{Overhead, Pair, median, paired_overhead};
use super::timings::Clock;
use crate::engine::SwapEngine;

/// The times of one swap, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Swap {
    /// Binding the adapter.
    pub swap: f64,
    /// Time to first token right after it.
    pub first_token_after: f64,
    /// Time to first token of the next generation, with the same adapter.
    pub first_token_without: f64,
}

/// All times of a swap measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SwapTimes {
    /// Seconds to read each adapter from its file.
    pub load: Vec<f64>,
    /// Bytes of one adapter's tensors.
    pub adapter_bytes: u64,
    /// Number of the prompt's tokens.
    pub prompt_tokens: usize,
    /// The swaps, in the order they were made.
    pub swaps: Vec<Swap>,
}

/// The outcome of a swap measurement.
#[derive(Debug, Clone, PartialEq)]
pub enum SwapResult {
    /// The times.
    Measured(SwapTimes),
    /// There's no adapter to swap; the reason.
    Absent(String),
    /// It failed; the error.
    Failed(String),
}

/// Medians over all swaps, in seconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SwapMetrics {
    /// Number of adapters that are bound in turn.
    pub adapters: usize,
    /// Bytes of one adapter's tensors.
    pub adapter_bytes: u64,
    /// Seconds to read an adapter from its file into memory.
    pub load_seconds: f64,
    /// Seconds to bind an adapter that's in memory. On a CPU nothing is copied.
    pub swap_seconds: f64,
    /// Time to first token after a swap, the swap itself excluded.
    pub first_token_after: f64,
    /// Time to first token without a swap before it.
    pub first_token_without: f64,
    /// The overhead of `first_token_after` against `first_token_without`.
    pub first_token_overhead: Option<Overhead>,
}

impl SwapTimes {
    /// The medians over all swaps; `None` if there are none.
    pub fn metrics(&self, seed: u64) -> Option<SwapMetrics> {
        let of =
            |figure: fn(&Swap) -> f64| median(&self.swaps.iter().map(figure).collect::<Vec<f64>>());
        let pairs = self.swaps.iter().map(|swap| Pair {
            base: swap.first_token_without,
            variant: swap.first_token_after,
            start: 0,
        });
        let pairs: Vec<Pair> = pairs.collect();
        Some(SwapMetrics {
            adapters: self.load.len(),
            adapter_bytes: self.adapter_bytes,
            load_seconds: median(&self.load)?,
            swap_seconds: of(|swap| swap.swap)?,
            first_token_after: of(|swap| swap.first_token_after)?,
            first_token_without: of(|swap| swap.first_token_without)?,
            first_token_overhead: paired_overhead(&[pairs], seed).ok(),
        })
    }
}

/// Binds each of `adapters` in turn, `rounds` times. One more round before these is a warm-up.
///
/// # Errors
/// The engine's error.
pub fn time_swaps<E: SwapEngine>(
    engine: &mut E,
    clock: &impl Clock,
    adapters: &[E::Adapter],
    prompt_ids: &[u32],
    rounds: usize,
) -> Result<Vec<Swap>, E::Error> {
    let mut swaps = Vec::new();
    for round in 0..=rounds {
        for adapter in adapters {
            let start = clock.now();
            engine.swap(adapter)?;
            let swapped = clock.now();
            engine.prefill(prompt_ids)?;
            let after = clock.now();
            engine.prefill(prompt_ids)?;
            let without = clock.now();
            if round > 0 {
                swaps.push(Swap {
                    swap: swapped.saturating_sub(start).as_secs_f64(),
                    first_token_after: after.saturating_sub(swapped).as_secs_f64(),
                    first_token_without: without.saturating_sub(after).as_secs_f64(),
                });
            }
        }
    }
    Ok(swaps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Engine;
    use crate::measure::scripted_clock::ScriptedClock;

    /// A swap takes 2 ms, a first token 40 ms, and 46 ms right after a swap. In the first round,
    /// first tokens take 1 s more.
    struct Scripted {
        clock: ScriptedClock,
        bound: Vec<char>,
        fresh: bool,
    }

    impl Engine for Scripted {
        type Error = ();

        fn prefill(&mut self, prompt_ids: &[u32]) -> Result<u32, ()> {
            assert_eq!(prompt_ids, [7, 8]);
            let cold = if self.bound.len() <= 3 { 1000 } else { 0 };
            let extra = if self.fresh { 6 } else { 0 };
            self.clock.advance_ms(40 + extra + cold);
            self.fresh = false;
            Ok(1)
        }

        fn decode(&mut self, _: u32) -> Result<u32, ()> {
            Err(())
        }
    }

    impl SwapEngine for Scripted {
        type Adapter = char;

        fn swap(&mut self, adapter: &char) -> Result<(), ()> {
            self.clock.advance_ms(2);
            self.bound.push(*adapter);
            self.fresh = true;
            Ok(())
        }
    }

    #[test]
    fn adapters_take_turns_and_the_first_round_warms_up() {
        let clock = ScriptedClock::default();
        let mut engine = Scripted {
            clock: clock.clone(),
            bound: Vec::new(),
            fresh: false,
        };
        let swaps = time_swaps(&mut engine, &clock, &['a', 'b', 'c'], &[7, 8], 2).unwrap();
        assert_eq!(engine.bound, "abcabcabc".chars().collect::<Vec<_>>());
        let times = SwapTimes {
            load: vec![0.1, 0.3, 0.2],
            adapter_bytes: 5,
            prompt_tokens: 2,
            swaps,
        };
        let metrics = times.metrics(1).unwrap();
        assert_eq!((metrics.adapters, times.swaps.len()), (3, 6));
        let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-9);
        close(metrics.load_seconds, 0.2);
        close(metrics.swap_seconds, 0.002);
        close(metrics.first_token_after, 0.046);
        close(metrics.first_token_without, 0.040);
        let over = metrics.first_token_overhead.unwrap();
        assert!(over.detected);
        close(over.pct, 15.0);
    }
}
