//! `k_quant`: blocks of a row rounded to 16 evenly spaced values between any two ends.
//!
//! Scale and lowest value of a block are searched: of 20 pairs of a least-squares fit, weighted by
//! the values' size, the one with the smallest weighted error is taken. The zero point is rounded to
//! a code at the end, and the codes to the nearest.
//!
//! Every sum is added up in the order of NumPy's, so that codes, scales and zero points are those of
//! the source, bit for bit.
//!
//! Source: onnxruntime, `quantization/neural_compressor/weight_only.py`, `quant_tensor_k_quant_cpu`, after
//! llama.cpp's `ggml-quants.c`.

use super::searched::{self, MOST};
use super::{FormatSpec, Quantized};
use crate::quantize::encoding::Encoding;

/// Fits that are tried.
const FITS: usize = 20;

/// Blocks of `block_size` values.
pub(super) const fn blocks(block_size: usize, name: &'static str) -> FormatSpec {
    let about = "Blocks with a zero point, whose ends are searched, in 4 bits";
    searched::format(block_size, name, about, "k_quant", round)
}

fn round(values: &[f32], columns: usize, encoding: Encoding) -> Quantized {
    let size = encoding.block_size();
    let mut fit = Fit::new(size);
    searched::quantize(values, columns, size, |block, codes| {
        fit.values.copy_from_slice(block);
        let (scale, zero) = fit.scale_and_zero();
        for (code, value) in codes.iter_mut().zip(block) {
            let place = f64::from(*value) / f64::from(scale) + f64::from(zero);
            *code = nearest(place) as u8;
        }
        (scale, zero as u8)
    })
}

/// The code nearest to `place`, the even one half way.
///
/// Adding this number leaves no bits for fractions. `round_ties_even` is a call for each value where
/// the processor isn't known to have an instruction for it.
fn nearest(place: f64) -> f64 {
    const NO_FRACTIONS: f64 = 6_755_399_441_055_744.0;
    (place.clamp(0.0, f64::from(MOST)) + NO_FRACTIONS) - NO_FRACTIONS
}

/// As [`nearest`].
fn nearest_f32(place: f32) -> f32 {
    const NO_FRACTIONS: f32 = 12_582_912.0;
    (place.clamp(0.0, MOST) + NO_FRACTIONS) - NO_FRACTIONS
}

/// A block, and what its search needs.
struct Fit {
    values: Vec<f32>,
    /// How much the error of each value counts.
    weights: Vec<f32>,
    codes: Vec<f32>,
}

impl Fit {
    fn new(size: usize) -> Self {
        let zeros = || vec![0.0; size];
        Self {
            values: zeros(),
            weights: zeros(),
            codes: zeros(),
        }
    }

    /// The sums of what `terms` makes of each place's value, weight and code.
    fn sums<const N: usize>(&self, terms: impl Fn(f32, f32, f32) -> [f32; N] + Copy) -> [f32; N] {
        sums(&self.values, &self.weights, &self.codes, terms)
    }

    /// Codes between `low` and the largest value, `inverse` a step.
    fn round(&mut self, inverse: f32, low: f32) {
        for (code, value) in self.codes.iter_mut().zip(&self.values) {
            *code = nearest_f32(inverse * (value - low));
        }
    }

    /// The weighted error of the codes.
    fn error(&self, scale: f32, low: f32) -> f32 {
        let [error] = self.sums(|value, weight, code| {
            let off = scale * code + low - value;
            [weight * (off * off)]
        });
        error
    }

    /// The block's scale, and its zero point as a code.
    fn scale_and_zero(&mut self) -> (f32, f32) {
        let size = self.values.len() as f32;
        let [squares] = self.sums(|value, _, _| [value * value]);
        let mean = (squares / size).sqrt();
        for (weight, value) in self.weights.iter_mut().zip(&self.values) {
            *weight = mean + value.abs();
        }
        let values = || self.values.iter().copied();
        let mut low = values().fold(f32::INFINITY, f32::min);
        let high = values().fold(f32::NEG_INFINITY, f32::max);
        let [sum_w, sum_x] = self.sums(|value, weight, _| [weight, weight * value]);
        let inverse_of = |low: f32, steps: f32| match low == high {
            true => 1.0,
            false => steps / (high - low),
        };
        let inverse = inverse_of(low, MOST);
        let mut scale = 1.0 / inverse;
        self.round(inverse, low);
        let mut least = self.error(scale, low);
        for number in 0..FITS {
            let steps = (-1.0 + 0.1 * number as f64 + f64::from(MOST)) as f32;
            self.round(inverse_of(low, steps), low);
            let [sum_l, sum_l2, sum_xl] = self.sums(|value, weight, code| {
                let weighted = weight * code;
                [weighted, weighted * code, weighted * value]
            });
            let determinant = sum_w * sum_l2 - sum_l * sum_l;
            let fitted_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
            let fitted_low = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
            let error = self.error(fitted_scale, fitted_low);
            // Not if it isn't a number: all codes are alike then.
            if error < least {
                (least, scale, low) = (error, fitted_scale, fitted_low);
            }
        }
        let zero = (-low / scale).round_ties_even().clamp(0.0, MOST);
        (scale, zero)
    }
}

/// Sums of float32 values in NumPy's order: eight partial sums for up to 128 values, and halves of
/// more. The number of values is a multiple of 8.
fn sums<const N: usize>(
    values: &[f32],
    weights: &[f32],
    codes: &[f32],
    terms: impl Fn(f32, f32, f32) -> [f32; N] + Copy,
) -> [f32; N] {
    if values.len() > 128 {
        let half = values.len() / 2 / 8 * 8;
        let left = sums(&values[..half], &weights[..half], &codes[..half], terms);
        let right = sums(&values[half..], &weights[half..], &codes[half..], terms);
        return std::array::from_fn(|n| left[n] + right[n]);
    }
    // What is added to −0 stays as it is, −0 included.
    let mut partial = [[-0.0_f32; 8]; N];
    let eights = values.chunks_exact(8).zip(weights.chunks_exact(8));
    for ((values, weights), codes) in eights.zip(codes.chunks_exact(8)) {
        for place in 0..8 {
            let terms = terms(values[place], weights[place], codes[place]);
            for (partial, term) in partial.iter_mut().zip(terms) {
                partial[place] += term;
            }
        }
    }
    partial.map(|[a, b, c, d, e, f, g, h]| ((a + b) + (c + d)) + ((e + f) + (g + h)))
}
