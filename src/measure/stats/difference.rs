//! The median difference of pairs in seconds, with its interval.

use super::overhead::estimated;
use super::starts::OfStart;
use super::{MIN_SAMPLES_TO_DETECT, Pair};

/// The median difference of pairs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// Median of `variant - base`, in seconds.
    pub seconds: f64,
    /// Its bootstrap 95 % interval; `None` if there's a single pair.
    pub interval: Option<[f64; 2]>,
    /// Whether there are enough pairs to detect a difference ([`MIN_SAMPLES_TO_DETECT`]).
    pub enough: bool,
    /// Whether a difference was detected: there are enough pairs, and the interval excludes 0.
    pub detected: bool,
}

/// The difference of pairs of neighbouring runs; `None` if there are no pairs. The interval is
/// computed as in [`paired_overhead`](super::paired_overhead).
pub fn paired_difference(pairs: &[Pair], seed: u64) -> Option<Difference> {
    if pairs.is_empty() {
        return None;
    }
    let differences = pairs.iter().map(|pair| OfStart {
        start: pair.start,
        value: pair.variant - pair.base,
    });
    let differences: Vec<OfStart> = differences.collect();
    let found = estimated(std::slice::from_ref(&differences), None, seed);
    let (seconds, interval) = (found.value, found.interval);
    let excludes_zero = interval.is_some_and(|[low, high]| low > 0.0 || high < 0.0);
    let enough = differences.len() >= MIN_SAMPLES_TO_DETECT;
    Some(Difference {
        seconds,
        interval,
        enough,
        detected: excludes_zero && enough,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_is_the_median_and_detected_only_of_enough_pairs() {
        let pairs: Vec<Pair> = [1.0, 2.0, 9.0, 4.0, 3.0]
            .map(|base| Pair {
                base,
                variant: base + 0.5 + base / 100.0,
                start: 0,
            })
            .to_vec();
        let found = paired_difference(&pairs, 1).unwrap();
        assert!((found.seconds - 0.53).abs() < 1e-9 && found.detected);
        let [low, high] = found.interval.unwrap();
        assert!((0.51..0.53).contains(&low) && (0.53..0.6).contains(&high));
        assert!(!paired_difference(&pairs[..4], 1).unwrap().detected);
        assert_eq!(paired_difference(&pairs[..1], 1).unwrap().interval, None);
        assert_eq!(paired_difference(&[], 1), None);
    }

    #[test]
    fn a_difference_that_goes_both_ways_is_not_detected() {
        let pair = |variant| Pair {
            base: 1.0,
            variant,
            start: 0,
        };
        let pairs = [0.9, 1.1, 0.95, 1.05, 1.2, 0.8].map(pair);
        assert!(!paired_difference(&pairs, 1).unwrap().detected);
    }
}
