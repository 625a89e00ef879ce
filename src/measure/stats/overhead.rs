//! What a variant costs against the base, in percent, with an interval that says how far to trust it.
//!
//! # The estimate
//!
//! Samples come in **strata**, the prompt categories: within one, the overhead is taken to be the same. It is the
//! median of `ln(variant / base)` in a stratum, and the mean of these medians over the strata, each with equal
//! weight; turned back, that is the geometric mean of the categories' median ratios.
//!
//! - The median, because a shared machine's disturbances are one-sided: a single stall of a second would move a
//!   mean of fifteen pairs by several percent, and the median hardly at all.
//! - Logarithms, so that base and variant are treated alike: exchanging them gives the reciprocal.
//! - Not one median over everything: where an adapter costs 2 % of a long prompt and 30 % of a short one, that would
//!   be whichever category happens to be in the middle.
//!
//! # The interval
//!
//! The percentile bootstrap (Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 13): pairs are
//! drawn with replacement **within each stratum**, since the number of prompts in a category is the experiment's
//! choice and not chance; the estimate is taken of each draw, and the interval spans its middle 95 %. It covers
//! what varied between the pairs. It can't cover what was the same for all of them, such as one machine's cache
//! sizes.
//!
//! The interval of a median reaches from the smallest to the largest sample at most, and these enclose the true
//! median of `n` samples with probability `1 - 2^(1 - n)`: 75 % for three pairs, 94 % for five. In a simulation of
//! equal variants with 7 % of the runs stalled, two pairs in one stratum "found" a difference 49 times of 100, three
//! 25 times, four 14 times, and five to fifteen 4 to 7 times. So a difference is called detected only where every
//! stratum has [`MIN_SAMPLES_TO_DETECT`] samples, however clear fewer may look.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{median, quantile_of_sorted};
use crate::random::SplitMix64;

/// Where a stratum has fewer samples than this on a side, no difference is called detected.
pub const MIN_SAMPLES_TO_DETECT: usize = 5;

/// How often the samples are drawn anew. The ends of the interval then vary by about 1 % of its width from seed to
/// seed.
const RESAMPLES: usize = 10_000;

/// The times of the same work, done by the base and by a variant side by side.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// The base's time in seconds.
    pub base: f64,
    /// The variant's time in seconds.
    pub variant: f64,
}

/// The times of one stratum's work where base and variant were not measured side by side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnpairedSamples {
    /// The base's times in seconds.
    pub base: Vec<f64>,
    /// The variant's times in seconds.
    pub variant: Vec<f64>,
}

/// A variant's additional time against the base.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Overhead {
    /// Additional time in percent of the base's: 0 is equal, -50 is twice as fast, 100 takes twice the time.
    pub pct: f64,
    /// Lower and upper end of the bootstrap 95 % interval of `pct`; `None` where a stratum has a single sample.
    pub interval_pct: Option<[f64; 2]>,
    /// How many pairs it is taken from; for unpaired samples, the smaller side's count.
    pub pairs: usize,
    /// How many the stratum with the fewest has.
    pub fewest_pairs: usize,
    /// Base and variant were measured side by side. Where they were not, the interval covers each side's own
    /// scatter and not what changed on the machine between them.
    pub paired: bool,
    /// The interval excludes 0, and every stratum has [`MIN_SAMPLES_TO_DETECT`] samples. Otherwise no difference was
    /// detected, which does not prove that there is none.
    pub detected: bool,
}

impl Overhead {
    /// Whether a difference could be detected at all.
    pub fn enough(&self) -> bool {
        self.fewest_pairs >= MIN_SAMPLES_TO_DETECT
    }
}

/// Why no overhead can be computed.
#[derive(Debug, Error, PartialEq)]
pub enum OverheadError {
    /// There is no stratum, or one has no samples on a side.
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

/// The overhead from samples that were measured side by side; one inner slice a stratum.
///
/// The same pairs and the same seed give the same interval.
///
/// # Errors
/// If there is no stratum, one is empty, or a time is not finite and above zero.
pub fn paired_overhead<S: AsRef<[Pair]>>(
    strata: &[S],
    seed: u64,
) -> Result<Overhead, OverheadError> {
    let mut log_ratios = Vec::with_capacity(strata.len());
    for (stratum, pairs) in strata.iter().enumerate() {
        let pairs = pairs.as_ref();
        let base = logarithms(stratum, pairs.iter().map(|pair| pair.base))?;
        let variant = logarithms(stratum, pairs.iter().map(|pair| pair.variant))?;
        log_ratios.push(variant.iter().zip(&base).map(|(v, b)| v - b).collect());
    }
    overhead(&log_ratios, None, seed)
}

/// The overhead against a base that was measured at another time, as a cached base result is.
///
/// Both sides are drawn independently, and the estimate is of the ratio of their medians. Within a stratum both
/// sides need the same mixture of work, or the difference between prompts passes for one between variants.
///
/// # Errors
/// If there is no stratum, a side of one is empty, or a time is not finite and above zero.
pub fn unpaired_overhead(strata: &[UnpairedSamples], seed: u64) -> Result<Overhead, OverheadError> {
    let mut base = Vec::with_capacity(strata.len());
    let mut variant = Vec::with_capacity(strata.len());
    for (stratum, samples) in strata.iter().enumerate() {
        base.push(logarithms(stratum, samples.base.iter().copied())?);
        variant.push(logarithms(stratum, samples.variant.iter().copied())?);
    }
    overhead(&variant, Some(&base), seed)
}

fn logarithms(stratum: usize, times: impl Iterator<Item = f64>) -> Result<Vec<f64>, OverheadError> {
    let logarithms = times
        .map(|seconds| {
            if seconds.is_finite() && seconds > 0.0 {
                Ok(seconds.ln())
            } else {
                Err(OverheadError::InvalidTime { stratum, seconds })
            }
        })
        .collect::<Result<Vec<f64>, _>>()?;
    if logarithms.is_empty() {
        return Err(OverheadError::Empty { stratum });
    }
    Ok(logarithms)
}

/// `values` are log ratios where `base` is absent, else the variant's log times; no stratum is empty.
fn overhead(
    values: &[Vec<f64>],
    base: Option<&[Vec<f64>]>,
    seed: u64,
) -> Result<Overhead, OverheadError> {
    if values.is_empty() {
        return Err(OverheadError::Empty { stratum: 0 });
    }
    let sides = || std::iter::once(values).chain(base);
    let smallest_stratum = sides().flatten().map(Vec::len).min().unwrap_or(0);
    let pairs = sides().map(|side| side.iter().map(Vec::len).sum()).min();

    let interval_pct = (smallest_stratum > 1).then(|| bootstrap(values, base, seed).map(percent));
    let excludes_zero = interval_pct.is_some_and(|[low, high]| low > 0.0 || high < 0.0);
    Ok(Overhead {
        pct: percent(log_ratio(values, base, median_of)),
        interval_pct,
        pairs: pairs.unwrap_or(0),
        fewest_pairs: smallest_stratum,
        paired: base.is_none(),
        detected: excludes_zero && smallest_stratum >= MIN_SAMPLES_TO_DETECT,
    })
}

/// The 2.5 % and 97.5 % quantiles of the estimate of [`RESAMPLES`] draws; no stratum may be empty.
pub(super) fn bootstrap(values: &[Vec<f64>], base: Option<&[Vec<f64>]>, seed: u64) -> [f64; 2] {
    let mut random = SplitMix64::new(seed);
    let mut draw = Vec::new();
    let mut median_of_draw = |samples: &[f64]| {
        draw.clear();
        draw.extend(samples.iter().map(|_| samples[random.below(samples.len())]));
        median_of(&draw)
    };
    let mut estimates: Vec<f64> = (0..RESAMPLES)
        .map(|_| log_ratio(values, base, &mut median_of_draw))
        .collect();
    estimates.sort_unstable_by(f64::total_cmp);
    [0.025, 0.975].map(|q| quantile_of_sorted(&estimates, q).expect("RESAMPLES is above zero"))
}

/// The mean over the strata of their centers, less that of the base where it's apart.
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
            .map(|&(base, variant)| Pair { base, variant })
            .collect()
    }

    /// About normal, with the standard deviation 1: the sum of twelve uniform numbers.
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
            base: vec![1.0, 1.1, 0.9, 1.0, 1.05, 0.95, 1.0],
            variant: vec![1.5, 1.6, 1.4, 1.5, 1.45, 1.55],
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
            })
            .collect();
        let unpaired = UnpairedSamples {
            base: paired.iter().map(|pair| pair.base).collect(),
            variant: paired.iter().map(|pair| pair.variant).collect(),
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
            base: vec![1.0],
            variant: vec![f64::INFINITY],
        }];
        assert!(unpaired_overhead(&samples, 1).is_err());
    }
}
