//! Runs far from the others: a sign that something else kept the machine busy.
//!
//! The modified Z-score of Iglewicz and Hoaglin, "How to detect and handle outliers", 1993: the distance from the
//! median over the median absolute deviation. The threshold, and the look at the first run, are hyperfine's
//! (`outlier_detection.rs`). Nothing is thrown away for it: the result names the runs and keeps them.

use serde::{Deserialize, Serialize};

use super::median;

/// The modified Z-score from which a run is an outlier: ten standard deviations of a normal distribution, which
/// are 1.4826 median absolute deviations each.
pub const OUTLIER_THRESHOLD: f64 = 1.4826 * 10.0;

/// What is suspicious about a series of runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outliers {
    /// Places in the series, in ascending order, of runs that took far more or far less time than the others.
    pub indices: Vec<usize>,
    /// The first run is among them, and it was slower: the warm-up was too short, or files were read from disk.
    pub slow_first_run: bool,
}

/// Names the runs of `times` (any unit, in the order they were made) that are outliers.
///
/// Only runs of the same work belong into one series. Below three runs nothing can be far from the rest.
pub fn find_outliers(times: &[f64]) -> Outliers {
    if times.len() < 3 {
        return Outliers::default();
    }
    let scores = modified_z_scores(times);
    Outliers {
        indices: (0..times.len())
            .filter(|&run| scores[run].abs() > OUTLIER_THRESHOLD)
            .collect(),
        slow_first_run: scores[0] > OUTLIER_THRESHOLD,
    }
}

/// For each value, its signed distance from the median in median absolute deviations.
///
/// Where more than half of the values are the same, the deviation is 0; then `f64::EPSILON` of the median takes its
/// place, so that any value which differs at all is far away.
pub fn modified_z_scores(values: &[f64]) -> Vec<f64> {
    let Some(center) = median(values) else {
        return Vec::new();
    };
    let deviations: Vec<f64> = values.iter().map(|value| (value - center).abs()).collect();
    let spread = median(&deviations)
        .unwrap_or_default()
        .max(center.abs() * f64::EPSILON)
        .max(f64::MIN_POSITIVE);
    values
        .iter()
        .map(|value| (value - center) / spread)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_series_has_no_outliers() {
        assert_eq!(
            find_outliers(&[1.00, 1.02, 0.99, 1.01, 1.03]),
            Outliers::default()
        );
        assert_eq!(find_outliers(&[0.5; 6]), Outliers::default());
        assert_eq!(find_outliers(&[]), Outliers::default());
        assert_eq!(find_outliers(&[1.0, 9.0]), Outliers::default());
    }

    #[test]
    fn a_stalled_run_is_named_by_its_place() {
        let found = find_outliers(&[1.00, 1.02, 0.99, 2.50, 1.01, 1.03]);
        assert_eq!(found.indices, [3]);
        assert!(!found.slow_first_run);
    }

    #[test]
    fn only_a_first_run_that_is_slower_is_called_slow() {
        let slow = find_outliers(&[3.00, 1.02, 0.99, 1.01, 1.03]);
        assert_eq!(
            (slow.indices.as_slice(), slow.slow_first_run),
            (&[0][..], true)
        );

        let fast = find_outliers(&[0.10, 1.02, 0.99, 1.01, 1.03]);
        assert_eq!(
            (fast.indices.as_slice(), fast.slow_first_run),
            (&[0][..], false)
        );
    }

    #[test]
    fn one_value_beside_equal_ones_is_an_outlier() {
        assert_eq!(find_outliers(&[2.0, 2.0, 2.0, 2.5]).indices, [3]);
    }

    #[test]
    fn scores_are_distances_in_median_absolute_deviations() {
        // median 3, absolute deviations 2 1 0 1 7, their median 1
        assert_eq!(
            modified_z_scores(&[1.0, 2.0, 3.0, 4.0, 10.0]),
            [-2.0, -1.0, 0.0, 1.0, 7.0]
        );
    }
}
