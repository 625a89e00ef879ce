//! The grid of values that a tensor lies on: that of its dtype, or a coarser one if it was computed
//! in 16 bits and stored wider.

use crate::weights::{Dtype, round_to};

/// The coarsest dtype that holds all `values`, which are stored in `stored`.
pub fn grid_of(values: &[f32], stored: Dtype) -> Dtype {
    let coarser: &[Dtype] = match stored {
        Dtype::Float32 => &[Dtype::BFloat16, Dtype::Float16],
        Dtype::Float16 => &[Dtype::BFloat16],
        Dtype::BFloat16 => &[],
    };
    let holds = |dtype: &Dtype| values.iter().all(|&value| round_to(value, *dtype) == value);
    coarser.iter().copied().find(holds).unwrap_or(stored)
}

/// The distance of two neighbouring values of `dtype` around `value`.
pub fn ulp(value: f32, dtype: Dtype) -> f32 {
    // Subnormal numbers are as far apart as the smallest normal ones.
    let (mantissa_bits, smallest) = match dtype {
        Dtype::Float32 => (23, -126),
        Dtype::Float16 => (10, -14),
        Dtype::BFloat16 => (7, -126),
    };
    let biased = (value.to_bits() >> 23) & 0xff;
    let exponent = (biased as i32 - 127).max(smallest);
    (f64::from(exponent - mantissa_bits)).exp2() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ulp_is_the_distance_to_the_next_value() {
        for (dtype, next) in [
            (Dtype::BFloat16, 1.0 + 1.0 / 128.0),
            (Dtype::Float16, 1.0 + 1.0 / 1024.0),
            (Dtype::Float32, 1.0 + f32::EPSILON),
        ] {
            assert_eq!(1.0 + ulp(1.5, dtype), next);
            assert_eq!(ulp(-3.0, dtype), 2.0 * ulp(1.0, dtype));
        }
        assert_eq!(ulp(0.0, Dtype::Float16), 2.0_f32.powi(-24));
        assert!(ulp(0.0, Dtype::BFloat16) > 0.0);
    }

    #[test]
    fn a_tensor_that_was_computed_in_16_bits_keeps_their_grid() {
        let rounded: Vec<f32> = [0.1, -2.3, 1e-3]
            .iter()
            .map(|&value| round_to(value, Dtype::BFloat16))
            .collect();
        assert_eq!(grid_of(&rounded, Dtype::Float32), Dtype::BFloat16);
        assert_eq!(grid_of(&[0.1, -2.3], Dtype::Float32), Dtype::Float32);
        assert_eq!(grid_of(&rounded, Dtype::BFloat16), Dtype::BFloat16);
    }
}
