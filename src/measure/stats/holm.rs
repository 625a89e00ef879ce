//! Many comparisons at once: of sixty variants none of which differs, one or another has an
//! interval without zero by chance.
//!
//! Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.

/// Probabilities corrected for how many there are, in the order of `probabilities`. If those below
/// a level are taken for true, the probability that any of these is a mistake is at most the level.
pub fn holm(probabilities: &[f64]) -> Vec<f64> {
    let count = probabilities.len();
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|&one, &other| probabilities[one].total_cmp(&probabilities[other]));
    let mut corrected = vec![1.0; count];
    let mut largest = 0.0_f64;
    for (place, index) in order.into_iter().enumerate() {
        let own = probabilities[index] * (count - place) as f64;
        largest = largest.max(own).min(1.0);
        corrected[index] = largest;
    }
    corrected
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corrected_probabilities_are_those_of_r() {
        // p.adjust(c(0.04, 0.01, 0.03, 0.005), "holm")
        let found = holm(&[0.04, 0.01, 0.03, 0.005]);
        for (found, expected) in found.iter().zip([0.06, 0.03, 0.06, 0.02]) {
            assert!((found - expected).abs() < 1e-12, "{found} for {expected}");
        }
        assert_eq!(holm(&[0.7, 0.9]), [1.0, 1.0]);
        assert_eq!(holm(&[0.04]), [0.04]);
        assert!(holm(&[]).is_empty());
    }
}
