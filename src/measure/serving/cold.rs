//! A cold adapter: from its file to the first token, while the base is resident.
//!
//! ```text
//! another adapter's prefill ─ load ─ bind ─ prefill ─ another's ─ …
//! ```
//!
//! Three take turns, in a balanced order: an adapter that's in memory, one whose file lies in the
//! page cache, and one whose file was dropped from it. Those of the same round make the pairs.

use serde::{Deserialize, Serialize};

use crate::engine::{Engine, SwapEngine};
use crate::measure::schedule::balanced_order;
use crate::measure::stats::{Overhead, Pair, median, paired_overhead};
use crate::measure::timings::Clock;

/// Where an adapter is before its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColdSource {
    /// In memory, not bound.
    Memory,
    /// In a file that was just read.
    PageCache,
    /// In a file that the system was asked to drop from the page cache.
    Disk,
}

impl ColdSource {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Memory, Self::PageCache, Self::Disk];

    /// The name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::PageCache => "page cache",
            Self::Disk => "disk",
        }
    }
}

/// An adapter's start, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ColdStart {
    /// The number of the start of all processes.
    pub start: usize,
    /// Which part of its file was in the page cache just before; `None` for memory, and where the
    /// system doesn't tell.
    pub cached_share: Option<f64>,
    /// Reading the file into memory; 0 for memory.
    pub load: f64,
    /// Binding the tensors.
    pub bind: f64,
    /// From the prompt to the first token.
    pub first_token: f64,
}

impl ColdStart {
    /// From the file, or from memory, to the first token.
    pub fn total(&self) -> f64 {
        self.load + self.bind + self.first_token
    }
}

/// All starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ColdTimes {
    /// Bytes of the adapter's tensors.
    pub adapter_bytes: u64,
    /// Number of the prompt's tokens.
    pub prompt_tokens: usize,
    /// One a round, for each source.
    pub sources: Vec<(ColdSource, Vec<ColdStart>)>,
}

/// Medians of the starts from one source, in seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct ColdFigures {
    /// The median of which part of the file was in the page cache.
    pub cached_share: Option<f64>,
    /// Reading the file.
    pub load: f64,
    /// Binding.
    pub bind: f64,
    /// The first token.
    pub first_token: f64,
    /// All of it.
    pub total: f64,
    /// What all of it takes more than from memory; `None` for memory itself.
    pub over_memory: Option<Overhead>,
}

impl ColdTimes {
    /// The figures of each source; `None` without a start.
    pub fn figures(&self, seed: u64) -> Vec<Option<ColdFigures>> {
        let mut sources = self.sources.iter();
        let memory = sources.find(|(source, _)| *source == ColdSource::Memory);
        let figures = |(source, starts): &(ColdSource, Vec<ColdStart>)| {
            let of = |part: fn(&ColdStart) -> f64| {
                median(&starts.iter().map(part).collect::<Vec<f64>>())
            };
            let shares: Option<Vec<f64>> = starts.iter().map(|one| one.cached_share).collect();
            let memory = memory.filter(|_| *source != ColdSource::Memory);
            let over = memory.and_then(|(_, memory)| {
                let pairs = memory.iter().zip(starts).map(|(memory, own)| Pair {
                    base: memory.total(),
                    variant: own.total(),
                    start: own.start,
                });
                paired_overhead(&[pairs.collect::<Vec<Pair>>()], seed).ok()
            });
            Some(ColdFigures {
                cached_share: shares.and_then(|shares| median(&shares)),
                load: of(|one| one.load)?,
                bind: of(|one| one.bind)?,
                first_token: of(|one| one.first_token)?,
                total: of(ColdStart::total)?,
                over_memory: over,
            })
        };
        self.sources.iter().map(figures).collect()
    }

    /// Adds what a further start measured of the same.
    pub fn add(&mut self, other: Self, start: usize) {
        for ((_, own), (_, others)) in self.sources.iter_mut().zip(other.sources) {
            own.extend(others.into_iter().map(|one| ColdStart { start, ..one }));
        }
    }
}

/// Reads an adapter from its file.
type Load<'a, E> = dyn Fn(&E) -> Result<<E as SwapEngine>::Adapter, <E as Engine>::Error> + 'a;

/// The adapter that starts, and what's done around it.
pub struct Cold<'a, E: SwapEngine> {
    /// It, in memory.
    pub resident: &'a E::Adapter,
    /// The adapter that's used before each start.
    pub other: &'a E::Adapter,
    /// Reads it from its file.
    pub load: &'a Load<'a, E>,
    /// Puts its file where the source says, and tells which part lies in the page cache.
    pub place: &'a dyn Fn(ColdSource) -> Option<f64>,
}

/// Starts it from each source in turn, `rounds` times. One more round before these is a warm-up.
///
/// # Errors
/// The engine's error.
pub fn time_cold_starts<E: SwapEngine>(
    engine: &mut E,
    clock: &impl Clock,
    cold: &Cold<E>,
    prompt_ids: &[u32],
    rounds: usize,
    seed: u64,
) -> Result<Vec<(ColdSource, Vec<ColdStart>)>, E::Error> {
    let sources = ColdSource::ALL;
    let mut found = sources.map(|source| (source, Vec::with_capacity(rounds)));
    let orders = balanced_order(sources.len(), rounds + 1, seed);
    for (round, order) in orders.into_iter().enumerate() {
        for index in order {
            engine.swap(cold.other)?;
            engine.prefill(prompt_ids)?;
            let cached_share = (cold.place)(sources[index]);
            let begin = clock.now();
            let loaded = match sources[index] {
                ColdSource::Memory => None,
                ColdSource::PageCache | ColdSource::Disk => Some((cold.load)(engine)?),
            };
            let loaded_at = clock.now();
            engine.swap(loaded.as_ref().unwrap_or(cold.resident))?;
            let bound_at = clock.now();
            engine.prefill(prompt_ids)?;
            let end = clock.now();
            if round > 0 {
                found[index].1.push(ColdStart {
                    start: 0,
                    cached_share,
                    load: match loaded {
                        Some(_) => loaded_at.saturating_sub(begin).as_secs_f64(),
                        None => 0.0,
                    },
                    bind: bound_at.saturating_sub(loaded_at).as_secs_f64(),
                    first_token: end.saturating_sub(bound_at).as_secs_f64(),
                });
            }
        }
    }
    Ok(found.to_vec())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::measure::scripted_clock::ScriptedClock;

    struct Scripted {
        clock: ScriptedClock,
        bound: char,
        log: RefCell<String>,
    }

    impl Engine for Scripted {
        type Error = ();

        fn prefill(&mut self, _: &[u32]) -> Result<u32, ()> {
            self.clock.advance_ms(40);
            self.log.borrow_mut().push(self.bound);
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
            self.bound = *adapter;
            Ok(())
        }
    }

    #[test]
    fn each_start_follows_another_adapter_and_what_is_around_it_is_not_timed() {
        let clock = ScriptedClock::default();
        let mut engine = Scripted {
            clock: clock.clone(),
            bound: ' ',
            log: RefCell::default(),
        };
        let placed = RefCell::new(Vec::new());
        let cold = Cold {
            resident: &'r',
            other: &'o',
            load: &|engine: &Scripted| {
                let from_disk = placed.borrow().last() == Some(&ColdSource::Disk);
                engine.clock.advance_ms(if from_disk { 38 } else { 8 });
                Ok('l')
            },
            place: &|source| {
                clock.advance_ms(1000);
                placed.borrow_mut().push(source);
                (source != ColdSource::Memory).then_some(0.25)
            },
        };
        let sources = time_cold_starts(&mut engine, &clock, &cold, &[7], 5, 3).unwrap();
        let log = engine.log.into_inner();
        assert_eq!(log.len(), 6 * 3 * 2);
        assert_eq!(log.matches("ol").count(), 12);
        assert_eq!(log.matches("or").count(), 6);
        let times = ColdTimes {
            adapter_bytes: 1,
            prompt_tokens: 1,
            sources,
        };
        let figures: Vec<ColdFigures> = times.figures(1).into_iter().flatten().collect();
        let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-9);
        for (found, total) in figures.iter().zip([0.042, 0.050, 0.080]) {
            close(found.total, total);
            close(found.bind, 0.002);
        }
        assert!(figures[0].over_memory.is_none() && figures[0].cached_share.is_none());
        assert_eq!(figures[2].cached_share, Some(0.25));
        let over = figures[2].over_memory.as_ref().unwrap();
        assert!((over.pct - 100.0 * 38.0 / 42.0).abs() < 1e-6 && over.pairs == 5);
    }
}
