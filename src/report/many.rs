//! Verdicts of many estimates that stand together: of sixty adapters none of which costs anything,
//! one or another has an interval without zero by chance.
//!
//! Holm's correction takes verdicts back until the probability that any of them is a mistake is at
//! most 5 %. Intervals stay those of each by itself.

use super::table::Value;
use crate::measure::stats::holm;

/// The probability of a mistake among all verdicts.
pub const LEVEL: f64 = 0.05;

/// Takes back verdicts of `rows` that don't hold with all of them in view. Each family has the
/// places of columns whose estimates stand together.
pub fn correct(rows: &mut [Vec<Value>], families: &[Vec<usize>]) {
    for family in families {
        let mut tested = Vec::new();
        for row in rows.iter_mut() {
            for (place, value) in row.iter_mut().enumerate() {
                if let Value::Estimate { p: Some(p), .. } = value
                    && family.contains(&place)
                {
                    tested.push((*p, value));
                }
            }
        }
        let probabilities: Vec<f64> = tested.iter().map(|(p, _)| *p).collect();
        for ((_, value), corrected) in tested.into_iter().zip(holm(&probabilities)) {
            if let Value::Estimate {
                detected,
                is_taken_back,
                ..
            } = value
                && *detected
                && corrected >= LEVEL
            {
                (*detected, *is_taken_back) = (false, true);
            }
        }
    }
}

/// Estimates that were tested, and those of them whose verdict was taken back.
pub fn counts<'a>(rows: impl Iterator<Item = &'a Vec<Value>>) -> (usize, usize) {
    let (mut tested, mut taken_back) = (0, 0);
    for value in rows.flatten() {
        if let Value::Estimate {
            p: Some(_),
            is_taken_back,
            ..
        } = value
        {
            tested += 1;
            taken_back += usize::from(*is_taken_back);
        }
    }
    (tested, taken_back)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::stats::{Pair, paired_overhead};
    use crate::random::SplitMix64;
    use crate::report::model::Overhead;

    fn estimate(p: Option<f64>) -> Value {
        Value::Estimate {
            value: 1.0,
            interval: Some([0.5, 1.5]),
            detected: true,
            is_taken_back: false,
            p,
            starts: Some(1),
        }
    }

    fn detected(rows: &[Vec<Value>]) -> Vec<bool> {
        let all = rows.iter().flatten();
        all.filter_map(|value| match value {
            Value::Estimate { detected, .. } => Some(*detected),
            _ => None,
        })
        .collect()
    }

    #[test]
    fn verdicts_hold_with_all_of_a_family_in_view() {
        // 3 × 0.01 and 2 × 0.02 are below 5 %, and the last is below it by itself.
        let row = |p| vec![Value::Missing, estimate(p)];
        let mut rows = [0.02, 0.04, 0.01].map(|p| row(Some(p))).to_vec();
        correct(&mut rows, &[vec![1]]);
        assert_eq!(detected(&rows), [true; 3]);
        let mut rows = [0.03, 0.04, 0.01].map(|p| row(Some(p))).to_vec();
        rows.push(row(None));
        correct(&mut rows, &[vec![1]]);
        assert_eq!(detected(&rows), [false, false, true, true]);
        assert_eq!(counts(rows.iter()), (3, 2));
    }

    #[test]
    fn families_do_not_weaken_each_other() {
        let row = vec![estimate(Some(0.03)), estimate(Some(0.03))];
        let mut apart = vec![row.clone()];
        correct(&mut apart, &[vec![0], vec![1]]);
        assert_eq!(detected(&apart), [true, true]);
        let mut together = vec![row];
        correct(&mut together, &[vec![0, 1]]);
        assert_eq!(detected(&together), [false, false]);
    }

    /// The overhead of five starts with five runs each, where nothing costs anything but for `pct`
    /// percent, and starts differ by 1 %.
    fn measured(random: &mut SplitMix64, pct: f64) -> Overhead {
        let mut noise = || {
            let uniform = (0..12).map(|_| random.next_u64() as f64 / u64::MAX as f64);
            uniform.sum::<f64>() - 6.0
        };
        let mut pairs = Vec::new();
        for start in 0..5 {
            let shared = (pct / 100.0).ln_1p() + 0.01 * noise();
            for _ in 0..5 {
                pairs.push(Pair {
                    base: 1.0,
                    variant: (shared + 0.02 * noise()).exp(),
                    start,
                });
            }
        }
        paired_overhead(&[pairs], 1).unwrap().into()
    }

    #[test]
    fn of_forty_without_a_cost_hardly_any_table_has_one_and_a_large_cost_is_found() {
        let mut random = SplitMix64::new(12);
        let (mut raw, mut corrected, mut found) = (0, 0, 0);
        let tables = 12;
        for _ in 0..tables {
            let row = |random: &mut SplitMix64, pct| {
                vec![Value::one_of_many(Some(&measured(random, pct)), 1)]
            };
            let mut rows: Vec<Vec<Value>> = (0..40).map(|_| row(&mut random, 0.0)).collect();
            rows.push(row(&mut random, 40.0));
            raw += usize::from(detected(&rows[..40]).contains(&true));
            correct(&mut rows, &[vec![0]]);
            corrected += usize::from(detected(&rows[..40]).contains(&true));
            found += usize::from(detected(&rows[40..])[0]);
        }
        assert!(
            raw >= 6,
            "{raw} of {tables} tables have a false alarm without correction"
        );
        assert!(
            corrected <= 3,
            "{corrected} of {tables} tables have a false alarm"
        );
        assert!(found >= 10, "{found} of {tables}");
    }

    #[test]
    fn what_is_improbable_was_detected() {
        let mut random = SplitMix64::new(3);
        for pct in [0.0, 1.0, 2.0, 3.0, 5.0, -3.0] {
            let over = measured(&mut random, pct);
            assert!(
                over.p_of_none(1).unwrap() >= 0.05 || over.detected,
                "{over:?}"
            );
        }
    }
}
