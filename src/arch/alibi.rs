//! ALiBi (Press et al., arXiv:2108.12409). BLOOM's slopes and MPT's differ if the number of heads
//! isn't a power of two. Falcon has BLOOM's, and rounds.
//!
//! Sources: `modeling_bloom.py`, `modeling_mpt.py`, `modeling_falcon.py`, Hugging Face
//! Transformers.

/// ALiBi: a bias on attention scores, linear in the key's position.
#[derive(Debug, Clone, PartialEq)]
pub struct Alibi {
    /// One slope per head.
    pub slopes: Vec<f32>,
    /// Falcon's bias: slopes, positions and their products are rounded to bfloat16, whatever the
    /// model's dtype, and the products are multiplied by this.
    pub rounded_times: Option<f32>,
}

impl Alibi {
    /// Without rounding.
    pub fn exact(slopes: Vec<f32>) -> Self {
        Self {
            slopes,
            rounded_times: None,
        }
    }
}

/// BLOOM's slopes: those for the next smaller power of two, then every second one for the next
/// larger.
pub fn bloom(heads: usize) -> Vec<f32> {
    let smaller = 1 << heads.ilog2();
    let base = |heads: usize| 2_f64.powf(-8.0 / heads as f64) as f32;
    let first = (1..=smaller).map(|power| base(smaller).powi(power as i32));
    let others = (1..).step_by(2).map(|power| base(2 * smaller).powi(power));
    first.chain(others).take(heads).collect()
}

/// MPT's slopes: for the next larger power of two, every second one, then the others.
pub fn mpt(heads: usize) -> Vec<f32> {
    let larger = heads.next_power_of_two();
    let slopes: Vec<f32> = (1..=larger)
        .map(|number| 1.0 / 2_f32.powf(number as f32 * (8.0 / larger as f32)))
        .collect();
    if larger == heads {
        return slopes;
    }
    let second = slopes.iter().skip(1).step_by(2);
    let others = slopes.iter().step_by(2);
    second.chain(others).take(heads).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_of_two_has_halved_slopes() {
        assert_eq!(bloom(8), mpt(8));
        assert_eq!(bloom(8)[..3], [0.5, 0.25, 0.125]);
    }

    #[test]
    fn other_head_counts_take_slopes_of_the_next_power_of_two() {
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(close(&bloom(3), &[0.0625, 0.003_906_25, 0.25]));
        assert!(close(&mpt(3), &[0.0625, 0.003_906_25, 0.25]));
        assert!(close(&bloom(6)[4..], &[0.5, 0.125]));
        assert!(close(&mpt(6)[4..], &[0.5, 0.125]));
    }
}
