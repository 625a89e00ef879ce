//! How far a published value goes.

/// Questions in the test set of GSM8K, which the models that PEFT trains on MetaMathQA answer.
const QUESTIONS: f64 = 1319.0;

/// The 95 % quantile of the normal distribution.
const Z: f64 = 1.959_964;

/// The 95 % interval (Wilson's) of a share of right answers; `None` of a metric that isn't one.
///
/// PEFT doesn't write how many questions there were. So a value is taken for a share of
/// [`QUESTIONS`] only if it's a whole number of them.
pub(super) fn interval(metric: &str, value: f64) -> Option<[f64; 2]> {
    let right = value * QUESTIONS;
    let is_share = (0.0..=1.0).contains(&value) && (right - right.round()).abs() < 1e-6;
    if metric != "test accuracy" || !is_share {
        return None;
    }
    let weight = Z * Z / QUESTIONS;
    let middle = (value + weight / 2.0) / (1.0 + weight);
    let spread = value * (1.0 - value) / QUESTIONS + weight / (4.0 * QUESTIONS);
    let half = Z * spread.sqrt() / (1.0 + weight);
    Some([(middle - half).max(0.0), (middle + half).min(1.0)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_questions_has_wilson_s_interval() {
        // statsmodels' `proportion_confint(631, 1319, method="wilson")`, and of none.
        for (right, expected) in [(631.0, [0.4515, 0.5054]), (0.0, [0.0, 0.0029])] {
            let found = interval("test accuracy", right / QUESTIONS).unwrap();
            for (found, expected) in found.into_iter().zip(expected) {
                assert!((found - expected).abs() < 1e-4, "{found} {expected}");
            }
        }
    }

    #[test]
    fn others_have_none() {
        assert_eq!(interval("test accuracy", 0.4812), None);
        assert_eq!(interval("forgetting", 631.0 / QUESTIONS), None);
        assert_eq!(interval("test accuracy", 2.0), None);
    }
}
