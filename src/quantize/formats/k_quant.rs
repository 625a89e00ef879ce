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

use super::steps::{pack, tolerance};
use super::{FormatSpec, Keys, Quantized, Switch};
use crate::quantize::encoding::Encoding;

const BITS: usize = 4;

/// The largest code.
const MOST: f32 = 15.0;

/// Fits that are tried.
const FITS: usize = 20;

/// Blocks of `block_size` values.
pub(super) const fn blocks(block_size: usize, name: &'static str) -> FormatSpec {
    FormatSpec {
        name,
        about: "Blocks with a zero point, whose ends are searched, in 4 bits",
        keys: Keys {
            switch: Some(Switch::Use4Bit),
            scheme: "k_quant",
        },
        encoding: Encoding::Even {
            bits: BITS,
            block_size,
        },
        quantize: round,
        has_zeros: true,
        quantizes_head: true,
        // `GatherBlockQuantized` has zero points, but no test of them here.
        has_row_lookup: false,
        tolerance: tolerance(BITS, block_size),
    }
}

fn round(values: &[f32], columns: usize, encoding: Encoding) -> Quantized {
    let size = encoding.block_size();
    let blocks = values.len() / columns.max(1) * columns.div_ceil(size);
    let mut made = Quantized {
        codes: Vec::with_capacity(blocks * size / 2),
        scales: Vec::with_capacity(blocks),
        zeros: Vec::with_capacity(blocks.div_ceil(2)),
    };
    let mut fit = Fit::new(size);
    let mut codes = vec![0_u8; size];
    let mut zeros = Vec::new();
    for row in values.chunks_exact(columns) {
        zeros.clear();
        for chunk in row.chunks(size) {
            fit.values[..chunk.len()].copy_from_slice(chunk);
            fit.values[chunk.len()..].fill(0.0);
            let (scale, zero) = fit.scale_and_zero();
            for (code, value) in codes.iter_mut().zip(&fit.values) {
                let place = f64::from(*value) / f64::from(scale) + f64::from(zero);
                *code = place.round_ties_even().clamp(0.0, f64::from(MOST)) as u8;
            }
            pack(&codes, BITS, &mut made.codes);
            made.scales.push(scale);
            zeros.push(zero as u8);
        }
        pack(&zeros, BITS, &mut made.zeros);
    }
    made
}

/// A block, and what its search needs.
struct Fit {
    values: Vec<f32>,
    /// How much the error of each value counts.
    weights: Vec<f32>,
    codes: Vec<f32>,
    terms: Vec<f32>,
}

impl Fit {
    fn new(size: usize) -> Self {
        let zeros = || vec![0.0; size];
        Self {
            values: zeros(),
            weights: zeros(),
            codes: zeros(),
            terms: zeros(),
        }
    }

    /// The sum of `term` of each place.
    fn sum(&mut self, term: impl Fn(&Self, usize) -> f32) -> f32 {
        for place in 0..self.values.len() {
            self.terms[place] = term(self, place);
        }
        pairwise_sum(&self.terms)
    }

    /// Codes between `low` and the largest value, `inverse` a step.
    fn round(&mut self, inverse: f32, low: f32) {
        for (code, value) in self.codes.iter_mut().zip(&self.values) {
            let place = inverse * (value - low);
            *code = place.round_ties_even().clamp(0.0, MOST);
        }
    }

    /// The weighted error of the codes.
    fn error(&mut self, scale: f32, low: f32) -> f32 {
        self.sum(|fit, i| {
            let off = scale * fit.codes[i] + low - fit.values[i];
            fit.weights[i] * (off * off)
        })
    }

    /// The block's scale, and its zero point as a code.
    fn scale_and_zero(&mut self) -> (f32, f32) {
        let size = self.values.len() as f32;
        let mean = (self.sum(|fit, i| fit.values[i] * fit.values[i]) / size).sqrt();
        for (weight, value) in self.weights.iter_mut().zip(&self.values) {
            *weight = mean + value.abs();
        }
        let mut low = self.values.iter().copied().fold(f32::INFINITY, f32::min);
        let high = self
            .values
            .iter()
            .copied()
            .fold(f32::NEG_INFINITY, f32::max);
        let sum_w = self.sum(|fit, i| fit.weights[i]);
        let sum_x = self.sum(|fit, i| fit.weights[i] * fit.values[i]);
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
            let sum_l = self.sum(|fit, i| fit.weights[i] * fit.codes[i]);
            let sum_l2 = self.sum(|fit, i| fit.weights[i] * fit.codes[i] * fit.codes[i]);
            let sum_xl = self.sum(|fit, i| fit.weights[i] * fit.codes[i] * fit.values[i]);
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

/// The sum of float32 values in NumPy's order: eight partial sums for up to 128 values, and halves
/// of more. The number of values is a multiple of 8.
fn pairwise_sum(values: &[f32]) -> f32 {
    if values.len() > 128 {
        let (left, right) = values.split_at(values.len() / 2 / 8 * 8);
        return pairwise_sum(left) + pairwise_sum(right);
    }
    let mut sums = [0.0_f32; 8];
    let (eights, _) = values.as_chunks::<8>();
    for (number, eight) in eights.iter().enumerate() {
        for (sum, value) in sums.iter_mut().zip(eight) {
            *sum = match number {
                0 => *value,
                _ => *sum + value,
            };
        }
    }
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + b) + (c + d)) + ((e + f) + (g + h))
}
