//! By how much a ratio differs between two measurements, such as a variant's time over the base's
//! before and after a change of the program.
//!
//! A measurement is one or more **starts**: processes that were started anew. Within a start,
//! ratios come in strata, the prompt groups. The estimate is that of an overhead, once for each
//! side: the mean over the strata of the median log ratio, of all starts together. The shift is the
//! difference of both.
//!
//! # The interval
//!
//! With fewer than [`MIN_STARTS`] starts on a side, ratios are drawn with replacement within each
//! stratum, on both sides independently. That leaves out what all ratios of a start share, such as
//! where its memory came to lie; a start that is slower by chance looks like a difference.
//!
//! With more, whole starts are drawn, so that this is covered. Few starts vary less among
//! themselves than starts do: a side of `R` starts is widened by `√(R / (R - 1))`, and both by
//! Student's t over the normal's 1.96. In a simulation with a deviation of 0 to 3 % between starts
//! and five starts a side, the low end was above the true shift in 2 % of the cases, where 2.5 %
//! are meant; drawing ratios gave up to 11 %, and up to 36 % of one start with 25 runs.

use super::{MIN_SAMPLES_TO_DETECT, median, overhead, quantile_of_sorted, student};
use crate::random::SplitMix64;

/// From how many starts on either side whole starts are drawn.
pub const MIN_STARTS: usize = 3;

/// Draws of whole starts.
const RESAMPLES: usize = 10_000;

/// The normal distribution's point that [`student::upper_point`] comes to with many degrees.
const NORMAL: f64 = 1.959_964;

/// Log ratios of one start, by stratum. Every start has the same strata.
pub type Start = Vec<Vec<f64>>;

/// By how much two measurements differ.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shift {
    /// The newer side's log ratio over the older one's.
    pub log: f64,
    /// Its 95 % interval; `None` if a stratum has a single ratio on a side.
    pub interval: Option<[f64; 2]>,
    /// Ratios in the smallest stratum.
    pub fewest: usize,
    /// Whether whole starts were drawn.
    pub covers_starts: bool,
    /// Degrees of freedom that the interval has.
    degrees: usize,
}

impl Shift {
    /// Whether there are enough ratios to conclude anything.
    pub fn enough(&self) -> bool {
        self.fewest >= MIN_SAMPLES_TO_DETECT
    }

    /// The probability of such a shift if the true one were `margin`. It's below 2.5 % just where
    /// the whole interval is above `margin`. `None` without an interval.
    pub fn p_above(&self, margin: f64) -> Option<f64> {
        let [low, _] = self.interval?;
        // Draws give the interval but not probabilities as small as many comparisons need.
        let error = (self.log - low) / student::upper_point(self.degrees);
        let beyond = self.log - margin;
        Some(match error > 0.0 {
            true => student::upper_tail(beyond / error, self.degrees),
            false if beyond > 0.0 => 0.0,
            false => 1.0,
        })
    }
}

/// The shift from `old` to `new`; `None` if a side has no starts, a stratum of one has no ratio, or
/// their strata aren't equally many.
pub fn shift(old: &[Start], new: &[Start], seed: u64) -> Option<Shift> {
    let sides = [pooled(old)?, pooled(new)?];
    if sides[0].len() != sides[1].len() {
        return None;
    }
    let [of_old, of_new] = [center(&sides[0])?, center(&sides[1])?];
    let strata = || sides.iter().flatten();
    let fewest = strata().map(Vec::len).min()?;
    let covers_starts = old.len().min(new.len()) >= MIN_STARTS;
    let log = of_new - of_old;
    let (interval, degrees) = if covers_starts {
        let degrees = old.len() + new.len() - 2;
        (Some(of_starts(old, new, log, degrees, seed)?), degrees)
    } else {
        let free: usize = strata().map(|ratios| ratios.len() - 1).sum();
        let interval = (fewest > 1).then(|| overhead::bootstrap(&sides[1], Some(&sides[0]), seed));
        (interval, free.max(1))
    };
    Some(Shift {
        log,
        interval,
        fewest,
        covers_starts,
        degrees,
    })
}

/// The interval around `log`, by drawing whole starts on both sides.
fn of_starts(
    old: &[Start],
    new: &[Start],
    log: f64,
    degrees: usize,
    seed: u64,
) -> Option<[f64; 2]> {
    let mut random = SplitMix64::new(seed);
    let [old, new] = [Drawable::new(old)?, Drawable::new(new)?];
    let mut deviations = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        deviations.push(new.deviation(&mut random)? - old.deviation(&mut random)?);
    }
    deviations.sort_unstable_by(f64::total_cmp);
    let wider = student::upper_point(degrees) / NORMAL;
    let end = |q| Some(log + wider * quantile_of_sorted(&deviations, q)?);
    Some([end(0.025)?, end(0.975)?])
}

/// A side of which whole starts are drawn.
struct Drawable {
    starts: usize,
    /// For each stratum, all ratios in ascending order, each with its start. Sorted once, so that a
    /// draw's median is found by counting.
    strata: Vec<Vec<(f64, usize)>>,
    estimate: f64,
}

impl Drawable {
    fn new(starts: &[Start]) -> Option<Self> {
        let strata = (0..starts.first()?.len()).map(|stratum| {
            let all = starts.iter().enumerate();
            let ratios = all
                .flat_map(|(index, start)| start[stratum].iter().map(move |&ratio| (ratio, index)));
            let mut ratios: Vec<(f64, usize)> = ratios.collect();
            ratios.sort_unstable_by(|(one, _), (other, _)| one.total_cmp(other));
            ratios
        });
        Some(Self {
            starts: starts.len(),
            strata: strata.collect(),
            estimate: estimate(starts)?,
        })
    }

    /// By how much the estimate of drawn starts differs from that of all, widened; `None` if they
    /// have no ratio in a stratum.
    fn deviation(&self, random: &mut SplitMix64) -> Option<f64> {
        let mut counts = vec![0; self.starts];
        for _ in 0..self.starts {
            counts[random.below(self.starts)] += 1;
        }
        let medians = self
            .strata
            .iter()
            .map(|ratios| drawn_median(ratios, &counts));
        let sum: f64 = medians.sum::<Option<f64>>()?;
        let count = self.starts as f64;
        let widening = (count / (count - 1.0)).sqrt();
        Some(widening * (sum / self.strata.len() as f64 - self.estimate))
    }
}

/// The median of sorted ratios, where each start counts as often as it was drawn.
fn drawn_median(ratios: &[(f64, usize)], counts: &[usize]) -> Option<f64> {
    let total: usize = ratios.iter().map(|&(_, start)| counts[start]).sum();
    let (below, above) = (total.checked_sub(1)? / 2, total / 2);
    let at = |rank: usize| {
        let mut seen = 0;
        let mut found = ratios.iter().filter(|&&(_, start)| {
            seen += counts[start];
            seen > rank
        });
        found.next().map(|&(ratio, _)| ratio)
    };
    Some((at(below)? + at(above)?) / 2.0)
}

/// A side's log ratio, or log time: the mean over the strata of the medians of all starts together.
/// `None` if there are no starts, or a stratum is empty.
pub fn estimate(starts: &[Start]) -> Option<f64> {
    center(&pooled(starts)?)
}

/// All starts' ratios, by stratum; `None` if there are none in one of them.
fn pooled(starts: &[Start]) -> Option<Start> {
    let (first, rest) = starts.split_first()?;
    let mut strata = first.clone();
    for start in rest {
        if start.len() != strata.len() {
            return None;
        }
        for (all, more) in strata.iter_mut().zip(start) {
            all.extend(more);
        }
    }
    let is_whole = !strata.is_empty() && strata.iter().all(|ratios| !ratios.is_empty());
    is_whole.then_some(strata)
}

fn center(strata: &[Vec<f64>]) -> Option<f64> {
    let medians = strata.iter().map(|ratios| median(ratios));
    let medians: Vec<f64> = medians.collect::<Option<_>>()?;
    super::mean(&medians)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Normal enough: the sum of twelve uniform numbers, less 6.
    fn noise(random: &mut SplitMix64) -> f64 {
        let uniform = |random: &mut SplitMix64| random.next_u64() as f64 / u64::MAX as f64;
        (0..12).map(|_| uniform(random)).sum::<f64>() - 6.0
    }

    /// Starts of five ratios in each of three strata. A start shares a deviation of 3 %, and each
    /// ratio has one of 2 % of its own.
    fn starts(random: &mut SplitMix64, count: usize, log: f64) -> Vec<Start> {
        let start = |random: &mut SplitMix64| -> Start {
            let shared = log + 0.03 * noise(random);
            let ratio = |random: &mut SplitMix64| shared + 0.02 * noise(random);
            (0..3)
                .map(|_| (0..5).map(|_| ratio(random)).collect())
                .collect()
        };
        (0..count).map(|_| start(random)).collect()
    }

    #[test]
    fn the_shift_is_the_difference_of_medians() {
        let (old, new) = (vec![vec![vec![0.1, 0.2, 0.9]]], vec![vec![vec![0.5; 5]]]);
        let found = shift(&old, &new, 1).unwrap();
        assert!((found.log - 0.3).abs() < 1e-12 && !found.enough() && !found.covers_starts);
        let [low, high] = found.interval.unwrap();
        assert!((low, high) == (0.5 - 0.9, 0.5 - 0.1), "{low} {high}");
    }

    #[test]
    fn a_start_that_is_drawn_twice_counts_twice() {
        let ratios = [(1.0, 0), (2.0, 1), (3.0, 0), (4.0, 2)];
        assert_eq!(drawn_median(&ratios, &[1, 1, 1]), Some(2.5));
        assert_eq!(drawn_median(&ratios, &[0, 0, 3]), Some(4.0));
        // 1 1 2 3 3
        assert_eq!(drawn_median(&ratios, &[2, 1, 0]), Some(2.0));
        assert_eq!(drawn_median(&ratios, &[0, 0, 0]), None);
    }

    #[test]
    fn whole_starts_cover_what_a_start_shares() {
        let mut random = SplitMix64::new(5);
        let mut above = |count: usize, trials: u64| {
            let found = (0..trials).filter(|&seed| {
                let [old, new] = [0, 1].map(|_| starts(&mut random, count, 0.0));
                shift(&old, &new, seed).unwrap().interval.unwrap()[0] > 0.0
            });
            found.count()
        };
        let (one, five) = (above(1, 40), above(5, 12));
        assert!(one >= 8, "{one} of 40");
        assert!(five <= 1, "{five} of 12");
    }

    #[test]
    fn the_probability_agrees_with_the_interval() {
        let mut random = SplitMix64::new(6);
        for count in [1, 4] {
            let (old, new) = (
                starts(&mut random, count, 0.0),
                starts(&mut random, count, 0.2),
            );
            let found = shift(&old, &new, 1).unwrap();
            let [low, _] = found.interval.unwrap();
            assert!(found.p_above(low - 1e-6).unwrap() < 0.025);
            assert!(found.p_above(low + 1e-6).unwrap() > 0.025);
            assert!((found.p_above(found.log).unwrap() - 0.5).abs() < 1e-9);
        }
    }

    #[test]
    fn a_stratum_without_ratios_has_no_shift() {
        let whole = vec![vec![vec![0.0], vec![0.0]]];
        assert!(shift(&whole, &[vec![vec![0.0], vec![]]], 1).is_none());
        assert!(shift(&whole, &[vec![vec![0.0]]], 1).is_none());
        assert!(shift(&whole, &[], 1).is_none());
        assert_eq!(shift(&whole, &whole, 1).unwrap().interval, None);
    }
}
