//! A variant's overhead against the base, in percent, with a confidence interval.
//!
//! # The estimate
//!
//! Samples come in **strata**, the prompt groups; within one, the overhead is assumed to be
//! constant. The estimate is the mean over the strata, equally weighted, of the median of
//! `ln(variant / base)` in each, converted back to percent: the geometric mean of the groups'
//! median ratios.
//!
//! - Median: disturbances of a shared machine are one-sided. A stall of one second would move the
//!   mean of fifteen pairs by several percent, and the median hardly at all.
//! - Logarithms: base and variant are treated alike, so exchanging them gives the reciprocal.
//! - Strata: if an adapter costs 2 % on long prompts and 30 % on short ones, a median over all runs
//!   would be that of whichever group happens to lie in the middle.
//!
//! # The interval
//!
//! It's the percentile bootstrap (Efron and Tibshirani, "An introduction to the bootstrap", 1993,
//! chapter 13): pairs are drawn with replacement **within each stratum**, since the number of
//! prompts in a group is chosen and not random. The estimate is computed for each draw, and the
//! interval spans the middle 95 %. It covers the variation between pairs, and not what all of them
//! share, such as the machine's cache sizes, or where the processes' memory came to lie.
//!
//! If all processes were started anew several times, the latter is covered as well: from
//! [`MIN_STARTS`](super::MIN_STARTS) starts on, whole starts are drawn instead of pairs
//! ([`starts`](super::starts)).
//!
//! A median's interval reaches at most from the smallest to the largest sample. These enclose the
//! true median of `n` samples with probability `1 - 2^(1 - n)`: 75 % for three pairs, 94 % for
//! five. In a simulation of equal variants with 7 % of the runs stalled, two pairs in one stratum
//! gave a false difference in 49 % of the cases, three in 25 %, four in 14 %, and five to fifteen
//! in 4 to 7 %. A difference therefore counts as detected only if every stratum has at least
//! [`MIN_SAMPLES_TO_DETECT`] samples.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::hurry::leaves_out;
use super::starts::{self, OfStart, by_start, can_be_drawn};
use super::{median, quantile_of_sorted};
use crate::random::SplitMix64;

/// If a stratum has fewer samples than this on a side, no difference counts as detected.
pub const MIN_SAMPLES_TO_DETECT: usize = 5;

/// Number of bootstrap draws. With it, the interval's ends vary between seeds by about 1 % of its
/// width.
const RESAMPLES: usize = 10_000;

/// The times of the same work, done by the base and by a variant in neighbouring runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// The base's time in seconds.
    pub base: f64,
    /// The variant's time in seconds.
    pub variant: f64,
    /// The start that both are from, from 0.
    pub start: usize,
}

/// The times of one stratum, if base and variant were measured at different times.
#[derive(Debug, Clone, PartialEq)]
pub struct UnpairedSamples {
    /// The base's times in seconds.
    pub base: Vec<OfStart>,
    /// The variant's times in seconds.
    pub variant: Vec<OfStart>,
}

/// A variant's additional time, compared with the base.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Overhead {
    /// Additional time in percent of the base's: 0 is equal, -50 is half the time, 100 is twice the
    /// time.
    pub pct: f64,
    /// Lower and upper end of the bootstrap 95 % interval of `pct`; `None` if a stratum has a
    /// single sample.
    pub interval_pct: Option<[f64; 2]>,
    /// Number of pairs; for unpaired samples, the smaller side's number of samples.
    pub pairs: usize,
    /// Number of pairs in the smallest stratum.
    pub fewest_pairs: usize,
    /// Whether base and variant were measured in neighbouring runs. If not, the interval covers
    /// each side's variation, and not what changed on the machine between the two measurements.
    pub paired: bool,
    /// How often all processes were started anew; of unpaired samples, the side with fewer starts.
    pub starts: usize,
    /// Whether whole starts were drawn for the interval, which then covers what differs between
    /// them.
    pub covers_starts: bool,
    /// Whether a difference was detected: the interval excludes 0, and every stratum has
    /// [`MIN_SAMPLES_TO_DETECT`] samples. `false` doesn't prove that there's no difference.
    pub detected: bool,
}

impl Overhead {
    /// Whether there are enough samples to detect a difference.
    pub fn enough(&self) -> bool {
        self.fewest_pairs >= MIN_SAMPLES_TO_DETECT
    }
}

/// Why no overhead can be computed.
#[derive(Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum OverheadError {
    /// There are no strata, or one has no samples on a side.
    #[error("stratum {stratum} has no samples to take an overhead from")]
    Empty {
        /// The stratum's place, from 0.
        stratum: usize,
    },

    /// A time is zero, negative, infinite or not a number.
    #[error("stratum {stratum} has a time of {seconds} s, expected a finite one above zero")]
    InvalidTime {
        /// The stratum's place, from 0.
        stratum: usize,
        /// The time found.
        seconds: f64,
    },
}

/// The overhead from pairs of neighbouring runs; one slice of pairs for each stratum.
///
/// The same pairs and the same seed give the same interval.
///
/// # Errors
/// If there are no strata, one is empty, or a time isn't finite and above zero.
pub fn paired_overhead<S: AsRef<[Pair]>>(
    strata: &[S],
    seed: u64,
) -> Result<Overhead, OverheadError> {
    let mut log_ratios = Vec::with_capacity(strata.len());
    for (stratum, pairs) in strata.iter().enumerate() {
        let pairs = pairs.as_ref();
        let side = |time: fn(&Pair) -> f64| {
            let times = pairs.iter().map(|pair| OfStart {
                start: pair.start,
                value: time(pair),
            });
            logarithms(stratum, times)
        };
        let (base, variant) = (side(|pair| pair.base)?, side(|pair| pair.variant)?);
        let ratios = variant.iter().zip(&base).map(|(own, base)| OfStart {
            start: own.start,
            value: own.value - base.value,
        });
        log_ratios.push(ratios.collect());
    }
    overhead(&log_ratios, None, seed)
}

/// The overhead against a base that was measured at another time, such as a cached one.
///
/// The estimate is the ratio of both sides' medians, and the bootstrap draws both sides
/// independently. Within a stratum, both sides must have the same mixture of prompts; otherwise a
/// difference between prompts looks like one between variants.
///
/// # Errors
/// If there are no strata, a side of one is empty, or a time isn't finite and above zero.
pub fn unpaired_overhead(strata: &[UnpairedSamples], seed: u64) -> Result<Overhead, OverheadError> {
    let mut base = Vec::with_capacity(strata.len());
    let mut variant = Vec::with_capacity(strata.len());
    for (stratum, samples) in strata.iter().enumerate() {
        base.push(logarithms(stratum, samples.base.iter().copied())?);
        variant.push(logarithms(stratum, samples.variant.iter().copied())?);
    }
    overhead(&variant, Some(&base), seed)
}

fn logarithms(
    stratum: usize,
    times: impl Iterator<Item = OfStart>,
) -> Result<Vec<OfStart>, OverheadError> {
    let logarithms = times
        .map(|OfStart { start, value }| {
            if value.is_finite() && value > 0.0 {
                let value = value.ln();
                Ok(OfStart { start, value })
            } else {
                let seconds = value;
                Err(OverheadError::InvalidTime { stratum, seconds })
            }
        })
        .collect::<Result<Vec<OfStart>, _>>()?;
    if logarithms.is_empty() {
        return Err(OverheadError::Empty { stratum });
    }
    Ok(logarithms)
}

/// `values` are log ratios if `base` is `None`, otherwise the variant's log times. No stratum is
/// empty.
fn overhead(
    values: &[Vec<OfStart>],
    base: Option<&[Vec<OfStart>]>,
    seed: u64,
) -> Result<Overhead, OverheadError> {
    if values.is_empty() {
        return Err(OverheadError::Empty { stratum: 0 });
    }
    let sides = || std::iter::once(values).chain(base);
    let smallest_stratum = sides().flatten().map(Vec::len).min().unwrap_or(0);
    let pairs = sides().map(|side| side.iter().map(Vec::len).sum()).min();
    let found = estimated(values, base, seed);
    let interval_pct = found.interval.map(|ends| ends.map(percent));
    let excludes_zero = interval_pct.is_some_and(|[low, high]| low > 0.0 || high < 0.0);
    Ok(Overhead {
        pct: percent(found.value),
        interval_pct,
        pairs: pairs.unwrap_or(0),
        fewest_pairs: smallest_stratum,
        paired: base.is_none(),
        starts: found.starts,
        covers_starts: found.covers_starts,
        detected: excludes_zero && smallest_stratum >= MIN_SAMPLES_TO_DETECT,
    })
}

/// A mean of medians, with its interval.
pub(super) struct Estimated {
    pub value: f64,
    /// `None` if a stratum has a single value.
    pub interval: Option<[f64; 2]>,
    /// Starts of the side with fewer of them.
    pub starts: usize,
    /// Whether whole starts were drawn.
    pub covers_starts: bool,
}

/// The mean over the strata of the medians of `values`, less that of `base` if it's a side of its
/// own. No stratum may be empty.
pub(super) fn estimated(
    values: &[Vec<OfStart>],
    base: Option<&[Vec<OfStart>]>,
    seed: u64,
) -> Estimated {
    let starts_of = by_start(values);
    let base_starts = base.map(by_start);
    let sides = || std::iter::once(&starts_of).chain(&base_starts);
    let starts = sides().map(Vec::len).min().unwrap_or(0);
    let plain = |side: &[Vec<OfStart>]| -> Vec<Vec<f64>> {
        let strata = side.iter().map(|of| of.iter().map(|one| one.value));
        strata.map(Iterator::collect).collect()
    };
    let (values, base) = (plain(values), base.map(plain));
    let value = log_ratio(&values, base.as_deref(), median_of);
    let whole = match sides().all(|side| can_be_drawn(side)) {
        true => starts::interval(&starts_of, base_starts.as_deref(), value, seed),
        false => None,
    };
    let smallest = values
        .iter()
        .chain(base.iter().flatten())
        .map(Vec::len)
        .min();
    Estimated {
        value,
        interval: whole.or_else(|| {
            let enough = smallest.is_some_and(|smallest| smallest > 1);
            enough.then(|| bootstrap(&values, base.as_deref(), seed))
        }),
        starts,
        covers_starts: whole.is_some(),
    }
}

/// The 2.5 % and 97.5 % quantiles of the estimates from [`RESAMPLES`] draws. No stratum may be
/// empty.
pub(super) fn bootstrap(values: &[Vec<f64>], base: Option<&[Vec<f64>]>, seed: u64) -> [f64; 2] {
    let mut random = SplitMix64::new(seed);
    let mut draw = Vec::new();
    let mut median_of_draw = |samples: &[f64]| {
        draw.clear();
        draw.extend(samples.iter().map(|_| samples[random.below(samples.len())]));
        median_of(&draw)
    };
    let mut estimates: Vec<f64> = (0..RESAMPLES)
        .take_while(|draw| !leaves_out(*draw))
        .map(|_| log_ratio(values, base, &mut median_of_draw))
        .collect();
    estimates.sort_unstable_by(f64::total_cmp);
    [0.025, 0.975].map(|q| quantile_of_sorted(&estimates, q).expect("RESAMPLES is above zero"))
}

/// The mean of the strata's centers, minus the base's mean of centers if the base is separate.
fn log_ratio(
    values: &[Vec<f64>],
    base: Option<&[Vec<f64>]>,
    mut center: impl FnMut(&[f64]) -> f64,
) -> f64 {
    let mut mean_of_centers = |strata: &[Vec<f64>]| {
        strata.iter().map(|samples| center(samples)).sum::<f64>() / strata.len() as f64
    };
    mean_of_centers(values) - base.map_or(0.0, mean_of_centers)
}

fn median_of(samples: &[f64]) -> f64 {
    median(samples).expect("an empty stratum was refused before")
}

fn percent(log_ratio: f64) -> f64 {
    log_ratio.exp_m1() * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(times: &[(f64, f64)]) -> Vec<Pair> {
        times
            .iter()
            .map(|&(base, variant)| Pair {
                base,
                variant,
                start: 0,
            })
            .collect()
    }

    fn of_one_start(times: &[f64]) -> Vec<OfStart> {
        let of = |&value: &f64| OfStart { start: 0, value };
        times.iter().map(of).collect()
    }

    /// Approximately normal with standard deviation 1: the sum of twelve uniform numbers, minus 6.
    fn noise(random: &mut SplitMix64) -> f64 {
        (0..12)
            .map(|_| random.next_u64() as f64 / u64::MAX as f64)
            .sum::<f64>()
            - 6.0
    }

    fn assert_close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-9, "{found} for {expected}");
    }

    #[test]
    fn the_overhead_is_the_median_of_the_ratios() {
        let found = paired_overhead(&[pairs(&[(1.0, 1.1), (2.0, 2.4), (4.0, 4.2)])], 1).unwrap();
        assert_close(found.pct, 10.0);
        assert_eq!((found.pairs, found.paired), (3, true));
    }

    #[test]
    fn drift_that_hits_both_sides_alike_leaves_no_trace() {
        let drifting: Vec<Pair> = (1..=8)
            .map(|run| Pair {
                base: f64::from(run),
                variant: 1.25 * f64::from(run),
                start: 0,
            })
            .collect();
        let found = paired_overhead(&[drifting], 1).unwrap();
        assert_close(found.pct, 25.0);
        let [low, high] = found.interval_pct.unwrap();
        assert_close(low, 25.0);
        assert_close(high, 25.0);
        assert!(found.detected);
    }

    #[test]
    fn exchanging_base_and_variant_gives_the_reciprocal() {
        let forward = [(1.0, 1.1), (1.0, 1.3), (1.0, 1.2), (1.0, 1.6)];
        let backward = forward.map(|(base, variant)| (variant, base));
        let forward = paired_overhead(&[pairs(&forward)], 1).unwrap();
        let backward = paired_overhead(&[pairs(&backward)], 1).unwrap();
        assert_close(
            (1.0 + forward.pct / 100.0) * (1.0 + backward.pct / 100.0),
            1.0,
        );
    }

    #[test]
    fn categories_weigh_the_same_however_many_pairs_they_have() {
        let short = pairs(&[(1.0, 1.44); 2]);
        let long = pairs(&[(1.0, 1.0); 20]);
        assert_close(paired_overhead(&[short, long], 1).unwrap().pct, 20.0);
    }

    #[test]
    fn one_stalled_run_does_not_move_the_estimate() {
        let mut times = vec![(1.0, 1.05); 14];
        times.push((1.0, 9.0));
        assert_close(paired_overhead(&[pairs(&times)], 1).unwrap().pct, 5.0);
    }

    #[test]
    fn a_single_pair_has_no_interval_and_detects_nothing() {
        let found = paired_overhead(&[pairs(&[(1.0, 3.0)])], 1).unwrap();
        assert_close(found.pct, 200.0);
        assert_eq!((found.interval_pct, found.detected), (None, false));

        let one_stratum_alone = [pairs(&[(1.0, 3.0); 9]), pairs(&[(1.0, 3.0)])];
        let found = paired_overhead(&one_stratum_alone, 1).unwrap();
        assert_eq!((found.interval_pct, found.detected), (None, false));
    }

    #[test]
    fn few_pairs_detect_nothing_however_clear_they_look() {
        let few = paired_overhead(&[pairs(&[(1.0, 1.5); 4])], 1).unwrap();
        assert!(few.interval_pct.unwrap()[0] > 0.0 && !few.detected);
        let few_in_one_stratum = [pairs(&[(1.0, 1.5); 20]), pairs(&[(1.0, 1.5); 4])];
        let found = paired_overhead(&few_in_one_stratum, 1).unwrap();
        assert!(!found.detected && !found.enough());
        assert_eq!((found.pairs, found.fewest_pairs), (24, 4));

        let enough = paired_overhead(&[pairs(&[(1.0, 1.5); 5])], 1).unwrap();
        assert!(enough.detected && enough.enough());
        let faster = paired_overhead(&[pairs(&[(1.5, 1.0); 5])], 1).unwrap();
        assert!(faster.pct < 0.0 && faster.detected);
    }

    #[test]
    fn an_interval_around_zero_is_no_difference_detected() {
        let noisy = [0.9, 1.1, 0.95, 1.06, 1.02, 0.97, 1.04, 0.99].map(|ratio| (1.0, ratio));
        let found = paired_overhead(&[pairs(&noisy)], 1).unwrap();
        let [low, high] = found.interval_pct.unwrap();
        assert!(low < 0.0 && high > 0.0 && !found.detected, "{found:?}");
    }

    #[test]
    fn the_same_seed_gives_the_same_interval() {
        let times = [pairs(&[
            (1.0, 1.3),
            (1.0, 1.1),
            (1.0, 1.7),
            (1.0, 1.2),
            (1.0, 0.9),
        ])];
        assert_eq!(paired_overhead(&times, 5), paired_overhead(&times, 5));
    }

    #[test]
    fn the_interval_holds_the_true_overhead_about_as_often_as_it_says() {
        let mut random = SplitMix64::new(11);
        let experiments = 100;
        let held = (0..experiments)
            .filter(|&seed| {
                let sample: Vec<Pair> = (0..15)
                    .map(|_| Pair {
                        base: 1.0,
                        variant: 1.08 * (0.1 * noise(&mut random)).exp(),
                        start: 0,
                    })
                    .collect();
                let [low, high] = paired_overhead(&[sample], seed)
                    .unwrap()
                    .interval_pct
                    .unwrap();
                low <= 8.0 && 8.0 <= high
            })
            .count();
        assert!((88..=100).contains(&held), "{held} of {experiments}");
    }

    #[test]
    fn an_unpaired_overhead_compares_the_medians_and_is_flagged() {
        let samples = [UnpairedSamples {
            base: of_one_start(&[1.0, 1.1, 0.9, 1.0, 1.05, 0.95, 1.0]),
            variant: of_one_start(&[1.5, 1.6, 1.4, 1.5, 1.45, 1.55]),
        }];
        let found = unpaired_overhead(&samples, 1).unwrap();
        assert_close(found.pct, 50.0);
        assert_eq!(
            (found.pairs, found.paired, found.detected),
            (6, false, true)
        );
        let [low, high] = found.interval_pct.unwrap();
        assert!(low > 30.0 && low < 50.0 && high > 50.0 && high < 70.0);
    }

    #[test]
    fn pairing_narrows_the_interval_when_drift_is_shared() {
        let drift = [1.0, 1.4, 0.9, 1.2, 1.3, 0.8, 1.1, 1.5];
        let paired: Vec<Pair> = drift
            .iter()
            .zip([1.02, 0.99, 1.01, 1.0, 1.03, 0.98, 1.01, 1.0])
            .map(|(base, jitter)| Pair {
                base: *base,
                variant: base * 1.1 * jitter,
                start: 0,
            })
            .collect();
        let unpaired = UnpairedSamples {
            base: of_one_start(&paired.iter().map(|pair| pair.base).collect::<Vec<_>>()),
            variant: of_one_start(&paired.iter().map(|pair| pair.variant).collect::<Vec<_>>()),
        };
        let width = |overhead: Overhead| {
            let [low, high] = overhead.interval_pct.unwrap();
            high - low
        };
        let paired = width(paired_overhead(&[paired], 1).unwrap());
        let unpaired = width(unpaired_overhead(&[unpaired], 1).unwrap());
        assert!(5.0 * paired < unpaired, "{paired} {unpaired}");
    }

    #[test]
    fn times_that_cannot_be_are_errors() {
        assert_eq!(
            paired_overhead::<Vec<Pair>>(&[], 1),
            Err(OverheadError::Empty { stratum: 0 })
        );
        assert_eq!(
            paired_overhead(&[pairs(&[(1.0, 1.0)]), vec![]], 1),
            Err(OverheadError::Empty { stratum: 1 })
        );
        assert_eq!(
            paired_overhead(&[pairs(&[(1.0, 0.0)])], 1),
            Err(OverheadError::InvalidTime {
                stratum: 0,
                seconds: 0.0
            })
        );
        let samples = [UnpairedSamples {
            base: of_one_start(&[1.0]),
            variant: of_one_start(&[f64::INFINITY]),
        }];
        assert!(unpaired_overhead(&samples, 1).is_err());
    }

    /// Pairs of `starts` starts with five runs each. The ratios have a deviation of 2 %, and one of
    /// 3 % that a start shares.
    fn restarted(random: &mut SplitMix64, starts: usize) -> Vec<Pair> {
        let mut found = Vec::new();
        for start in 0..starts {
            let shared = 0.03 * noise(random);
            for _ in 0..5 {
                found.push(Pair {
                    base: 1.0,
                    variant: (shared + 0.02 * noise(random)).exp(),
                    start,
                });
            }
        }
        found
    }

    #[test]
    fn an_interval_of_whole_starts_covers_what_a_start_shares_and_one_of_runs_does_not() {
        let mut random = SplitMix64::new(4);
        let mut missed = |starts: usize, is_told: bool| {
            let wrong = (0..300).filter(|&seed| {
                let mut pairs = restarted(&mut random, starts);
                if !is_told {
                    pairs.iter_mut().for_each(|pair| pair.start = 0);
                }
                let found = paired_overhead(&[pairs], seed).unwrap();
                assert_eq!(found.covers_starts, is_told);
                assert_eq!(found.starts, if is_told { starts } else { 1 });
                found.detected
            });
            wrong.count() as f64 / 300.0
        };
        for starts in [3, 5, 10] {
            let wrong = missed(starts, true);
            assert!(
                wrong <= 0.08,
                "{wrong} of intervals with {starts} starts miss"
            );
        }
        let wrong = missed(5, false);
        assert!(
            wrong >= 0.15,
            "{wrong} of intervals that don't know of starts miss"
        );
    }

    #[test]
    fn two_starts_are_told_and_their_pairs_are_drawn_as_those_of_one() {
        let mut random = SplitMix64::new(9);
        let mut pairs = restarted(&mut random, 2);
        let two = paired_overhead(&[pairs.clone()], 1).unwrap();
        assert_eq!((two.starts, two.covers_starts), (2, false));
        pairs.iter_mut().for_each(|pair| pair.start = 0);
        let one = paired_overhead(&[pairs], 1).unwrap();
        assert_eq!((one.starts, one.interval_pct), (1, two.interval_pct));
    }

    #[test]
    fn a_start_without_a_pair_in_a_stratum_cannot_be_drawn() {
        let mut random = SplitMix64::new(9);
        let whole = restarted(&mut random, 3);
        let found = paired_overhead(&[whole.clone(), whole.clone()], 1).unwrap();
        assert!(found.covers_starts);
        let partial: Vec<Pair> = whole
            .iter()
            .copied()
            .filter(|pair| pair.start < 2)
            .collect();
        let found = paired_overhead(&[whole, partial], 1).unwrap();
        assert!(!found.covers_starts && found.interval_pct.is_some());
    }

    #[test]
    fn starts_of_both_unpaired_sides_are_drawn() {
        let mut random = SplitMix64::new(3);
        let mut side = |log: f64| -> Vec<OfStart> {
            let pairs = restarted(&mut random, 4).into_iter();
            pairs
                .map(|pair| OfStart {
                    start: pair.start,
                    value: pair.variant * log.exp(),
                })
                .collect()
        };
        let samples = UnpairedSamples {
            base: side(0.0),
            variant: side(0.5),
        };
        let found = unpaired_overhead(&[samples], 1).unwrap();
        assert!(found.covers_starts && found.starts == 4 && found.detected);
    }
}
