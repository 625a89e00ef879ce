//! Whether values rise or fall with their number in a series.
//!
//! The Mann–Kendall test counts the pairs of a series in which the later value is higher, less
//! those in which it's lower. Several series, which may be of different heights, are tested
//! together: their counts are added, and so are the variances that the counts have without a trend.
//! The slope is the median over all pairs of their difference by their distance. It makes no
//! assumption about how values are distributed, so stalls of a shared machine don't matter.
//!
//! Sources: Mann, "Nonparametric tests against trend", 1945; Hirsch, Slack and Smith, "Techniques
//! of trend analysis for monthly water quality data", 1982; Sen, "Estimates of the regression
//! coefficient based on Kendall's tau", 1968.

use super::median;
use super::student::normal_upper_tail;

/// A trend.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trend {
    /// The median change from one value to the next.
    pub slope: f64,
    /// The probability of such a trend, to either side, if there were none.
    pub p: f64,
}

/// The trend that all `series` have in common; `None` if no series has two different values.
pub fn trend(series: &[Vec<f64>]) -> Option<Trend> {
    let (mut score, mut variance) = (0_i64, 0.0);
    let mut slopes = Vec::new();
    for values in series {
        for (index, earlier) in values.iter().enumerate() {
            for (distance, later) in values[index + 1..].iter().enumerate() {
                slopes.push((later - earlier) / (distance + 1) as f64);
                score += i64::from(later > earlier) - i64::from(later < earlier);
            }
        }
        let count = values.len() as f64;
        variance += count * (count - 1.0) * (2.0 * count + 5.0) / 18.0;
    }
    let slope = median(&slopes)?;
    if slopes.iter().all(|slope| *slope == 0.0) {
        return None;
    }
    // Scores are whole numbers, and the normal distribution isn't.
    let beyond = (score.unsigned_abs().saturating_sub(1)) as f64;
    let p = (2.0 * normal_upper_tail(beyond / f64::sqrt(variance))).min(1.0);
    Some(Trend { slope, p })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SplitMix64;

    #[test]
    fn the_probability_is_that_of_the_textbook() {
        // Ten values of which each is higher than the one before: a score of 45, a variance of 125.
        let rising: Vec<f64> = (0..10).map(f64::from).collect();
        let found = trend(&[rising]).unwrap();
        // 2 * (1 - Φ(44 / √125))
        assert!((found.p - 8.3e-5).abs() < 2e-5, "{found:?}");
        assert!((found.slope - 1.0).abs() < 1e-12);
        let falling = trend(&[vec![3.0, 2.0, 1.5, 1.0]]).unwrap();
        assert!(falling.slope < 0.0 && falling.p > 0.05);
    }

    #[test]
    fn series_of_different_heights_are_judged_together() {
        let series = |height: f64| (0..5).map(|step| height + f64::from(step)).collect();
        let alone = trend(&[series(0.0)]).unwrap();
        let together = trend(&[series(0.0), series(900.0), series(-5.0)]).unwrap();
        assert!(together.p < alone.p / 10.0);
        assert!((together.slope - 1.0).abs() < 1e-9);
        // The heights themselves are no trend.
        let level = [vec![1.0, 1.1, 0.9], vec![9.0, 8.9, 9.1]];
        assert!(trend(&level).unwrap().p > 0.5);
        assert_eq!(trend(&[vec![1.0; 5]]), None);
        assert_eq!(trend(&[vec![1.0], Vec::new()]), None);
    }

    #[test]
    fn no_trend_is_found_about_as_seldom_as_it_says() {
        let mut random = SplitMix64::new(8);
        let mut value = || random.next_u64() as f64 / u64::MAX as f64;
        let found = (0..1000).filter(|_| {
            let series: Vec<Vec<f64>> = (0..3).map(|_| (0..5).map(|_| value()).collect()).collect();
            trend(&series).unwrap().p < 0.05
        });
        let found = found.count();
        assert!((15..=60).contains(&found), "{found} of 1000");
    }
}
