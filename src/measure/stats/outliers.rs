//! Outliers: runs whose time is far from the others', a sign of other load on the machine.
//!
//! A run is judged by its modified Z-score: its distance from the median, divided by the median
//! absolute deviation. Outliers are named in the result and not removed.
//!
//! Sources: Iglewicz and Hoaglin, "How to detect and handle outliers", 1993; the threshold and the
//! check of the first run are hyperfine's (`outlier_detection.rs`).

use serde::{Deserialize, Serialize};

use super::median;

/// The modified Z-score above which a run is an outlier: ten standard deviations of a normal
/// distribution, each 1.4826 median absolute deviations.
pub const OUTLIER_THRESHOLD: f64 = 1.4826 * 10.0;

/// The outliers in a series of runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outliers {
    /// Indices of the outliers in the series, in ascending order.
    pub indices: Vec<usize>,
    /// Whether the first run is one, and slower than the others: the warm-up was too short, or
    /// files were read from disk.
    pub slow_first_run: bool,
}

/// Finds the outliers in `times` (any unit, in the order of the runs).
///
/// The runs of a series must do the same work. Fewer than three runs have no outliers.
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

/// Each value's signed distance from the median, in median absolute deviations.
///
/// If more than half of the values are equal, the deviation is 0. It's then replaced by
/// `f64::EPSILON` times the median, so that any different value is an outlier.
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
    fn a_stalled_run_is_named_by_its_index() {
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
    fn one_different_value_among_equal_ones_is_an_outlier() {
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
