//! `search`: blocks of a row rounded to 16 evenly spaced values between any two ends, as with
//! `k_quant`, but by a search that rounds the zero point first.
//!
//! Each of ten scales, from 0.8 of a block's range to a little over it, gives a zero point and
//! codes. The scale is then fitted to these codes by least squares, and the fit with the smallest
//! error is taken. `k_quant` rounds the zero point after its search, and so loses much of what it
//! found. As there, a value's error counts by its size plus the root mean square of its block.

use super::searched::{self, MOST};
use super::{FormatSpec, Quantized};
use crate::quantize::encoding::Encoding;

/// Blocks of `block_size` values.
pub(super) const fn blocks(block_size: usize, name: &'static str) -> FormatSpec {
    let about = "Blocks with a zero point, which is searched, in 4 bits";
    searched::format(block_size, name, about, "search", round)
}

fn round(values: &[f32], columns: usize, encoding: Encoding) -> Quantized {
    let size = encoding.block_size();
    let mut weights = vec![0.0; size];
    searched::quantize(values, columns, size, |block, codes| {
        let (scale, zero) = scale_and_zero(block, &mut weights);
        for (code, value) in codes.iter_mut().zip(block) {
            *code = whole(value / scale + zero) as u8;
        }
        (scale, zero as u8)
    })
}

/// The code nearest to `place`.
///
/// Not by `round`, which is a call where the processor isn't known to have an instruction for it.
fn whole(place: f32) -> f32 {
    (place.clamp(0.0, MOST) + 0.5) as i32 as f32
}

/// A block's scale, and its zero point as a code.
fn scale_and_zero(block: &[f32], weights: &mut [f32]) -> (f32, f32) {
    let squares: f32 = block.iter().map(|value| value * value).sum();
    let mean = (squares / block.len() as f32).sqrt();
    for (weight, value) in weights.iter_mut().zip(block) {
        *weight = mean + value.abs();
    }
    // Zero has a code of its own, so the range includes it.
    let low = block.iter().copied().fold(0.0, f32::min);
    let high = block.iter().copied().fold(0.0, f32::max);
    let range = (high - low) / MOST;
    if range < f32::MIN_POSITIVE {
        return (1.0, 0.0);
    }
    let mut best = (f32::NEG_INFINITY, range, whole(-low / range));
    for tenth in 0..10_u8 {
        let scale = range * (0.8 + 0.025 * f32::from(tenth));
        let zero = whole(-low / scale);
        let inverse = 1.0 / scale;
        // Eight sums each, so that the loop runs on vectors.
        let (mut code_value, mut code_code) = ([0.0_f32; 8], [0.0_f32; 8]);
        for (values, weights) in block.chunks_exact(8).zip(weights.chunks_exact(8)) {
            for place in 0..8 {
                let code = whole(values[place] * inverse + zero) - zero;
                let weighted = weights[place] * code;
                code_value[place] += weighted * values[place];
                code_code[place] += weighted * code;
            }
        }
        let code_value: f32 = code_value.iter().sum();
        let code_code: f32 = code_code.iter().sum();
        // The weighted error of the fitted scale is that of zeros less this.
        let explained = code_value * code_value / code_code;
        if code_value > 0.0 && explained > best.0 {
            best = (explained, code_value / code_code, zero);
        }
    }
    let (_, scale, zero) = best;
    (scale, zero)
}

#[cfg(test)]
mod tests {
    use super::super::Format;

    /// Values between −1 and 1.5, most of them near zero, with steps that repeat late.
    fn values(count: usize) -> Vec<f32> {
        let unit = |i: usize| ((i * 7919 + 13) % 1009) as f32 / 504.0 - 1.0;
        let value = |i| unit(i) * unit(i) * unit(i) + if i % 97 == 0 { 0.5 } else { 0.0 };
        (0..count).map(value).collect()
    }

    fn error(format: Format, values: &[f32], columns: usize) -> f64 {
        let made = format.quantize(values, columns);
        let found = format.dequantize(&made, values.len() / columns, columns);
        let square = |(a, b): (&f32, &f32)| f64::from(a - b) * f64::from(a - b);
        values.iter().zip(&found).map(square).sum()
    }

    #[test]
    fn it_loses_less_than_rounding_and_than_a_zero_point_that_is_rounded_last() {
        let values = values(256 * 40);
        for size in [16, 32, 64, 128, 256] {
            let of = |name| {
                let format = Format::Int4.with(Some(name), Some(size)).unwrap();
                error(format, &values, 256)
            };
            let [search, k_quant, rtn] = ["search", "k_quant", "rtn"].map(of);
            assert!(search < k_quant, "{size}: {search} {k_quant}");
            assert!(search < 0.99 * rtn, "{size}: {search} {rtn}");
        }
    }

    #[test]
    fn zeros_stay_zero_and_one_sign_is_enough() {
        let columns = 40;
        let mut values = vec![0.0; 3 * columns];
        values[columns..2 * columns].fill(0.25);
        values[2 * columns..].fill(-3.0);
        let format = Format::SearchBlocks32;
        let made = format.quantize(&values, columns);
        let found = format.dequantize(&made, 3, columns);
        for (found, value) in found.iter().zip(&values) {
            assert!(
                (found - value).abs() <= 1e-6 * value.abs(),
                "{found} {value}"
            );
        }
    }
}
