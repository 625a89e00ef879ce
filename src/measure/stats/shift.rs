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
//! With fewer than [`MIN_STARTS`](super::MIN_STARTS) starts on a side, ratios are drawn with
//! replacement within each stratum, on both sides independently. That leaves out what all ratios of
//! a start share, such as where its memory came to lie; a start that is slower by chance looks like
//! a difference.
//!
//! With more, whole starts of both sides are drawn ([`starts`](super::starts)), so that this is
//! covered. In a simulation with a deviation of 0 to 3 % between starts and five starts a side, the
//! low end was above the true shift in 2 % of the cases, where 2.5 % are meant; drawing ratios gave
//! up to 11 %, and up to 36 % of one start with 25 runs.

use super::starts::{Start, can_be_drawn, center, degrees, interval, pooled};
use super::{MIN_SAMPLES_TO_DETECT, overhead, student};

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
        Some(student::p_above(self.log, low, margin, self.degrees))
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
    let covers_starts = can_be_drawn(old) && can_be_drawn(new);
    let log = of_new - of_old;
    let (interval, degrees) = if covers_starts {
        let interval = interval(new, Some(old), log, seed)?;
        (Some(interval), degrees(new, Some(old)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SplitMix64;

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
