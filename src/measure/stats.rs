//! Statistics of measured times.
//!
//! They're computed from raw values, which the result keeps, so that any table can be made again.
//!
//! - this file: mean, median, quantiles
//! - [`Overhead`]: a variant against the base, with a bootstrap interval
//! - [`Difference`]: a difference in seconds, with a bootstrap interval
//! - [`Shift`]: by how much a ratio differs between two measurements
//! - [`Start`]: runs of processes that were started together
//! - [`trend`]: whether times rise or fall with their number
//! - [`holm`]: many comparisons at once
//! - [`hurry`]: fewer draws for intervals, once the program shall end
//! - [`Outliers`]: runs far from the rest, and a slow first run

mod difference;
mod holm;
mod hurry;
mod outliers;
mod overhead;
mod shift;
mod starts;
mod student;
mod trend;

pub use difference::{Difference, paired_difference};
pub use holm::holm;
pub use hurry::{hurry, is_hurried};
pub use outliers::{OUTLIER_THRESHOLD, Outliers, find_outliers, modified_z_scores};
pub use overhead::{
    MIN_SAMPLES_TO_DETECT, Overhead, OverheadError, Pair, UnpairedSamples, paired_overhead,
    unpaired_overhead,
};
pub use shift::{Shift, shift};
pub use starts::{MIN_STARTS, OfStart, Start, by_start, estimate};
pub use student::p_of_zero;
pub use trend::{Trend, trend};

/// The arithmetic mean; `None` if there are no values.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The middle value, or the mean of the two middle ones; `None` if there are no values.
pub fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

/// The `q`-quantile of the values; `None` if there are no values.
///
/// It's interpolated linearly at position `q * (n - 1)`: NumPy's default, and definition 7 of
/// Hyndman and Fan, "Sample quantiles in statistical packages", 1996. `q` is clamped to `0..=1`.
pub fn quantile(values: &[f64], q: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    quantile_of_sorted(&sorted, q)
}

/// [`quantile`] of values in ascending order.
fn quantile_of_sorted(sorted: &[f64], q: f64) -> Option<f64> {
    let position = q.clamp(0.0, 1.0) * sorted.len().checked_sub(1)? as f64;
    let below = sorted[position.floor() as usize];
    let above = sorted[position.ceil() as usize];
    Some(below + (above - below) * position.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_values_have_no_statistics() {
        assert_eq!(mean(&[]), None);
        assert_eq!(median(&[]), None);
        assert_eq!(quantile(&[], 0.25), None);
    }

    #[test]
    fn the_median_of_an_even_count_is_between_the_two_middle_values() {
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[9.0, 1.0, 2.0, 4.0]), Some(3.0));
        assert_eq!(mean(&[9.0, 1.0, 2.0, 4.0]), Some(4.0));
    }

    #[test]
    fn quantiles_are_those_of_numpy() {
        // numpy.quantile([7, 1, 3, 10, 4], [0, 0.1, 0.25, 0.9, 1])
        let values = [7.0, 1.0, 3.0, 10.0, 4.0];
        for (q, expected) in [(0.0, 1.0), (0.1, 1.8), (0.25, 3.0), (0.9, 8.8), (1.0, 10.0)] {
            let found = quantile(&values, q).unwrap();
            assert!((found - expected).abs() < 1e-12, "{q}: {found}");
        }
    }
}
