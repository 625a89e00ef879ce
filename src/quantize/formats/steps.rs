//! Rounding to evenly spaced values that are symmetric around zero, in blocks of a row.

use super::{FormatSpec, Keys, Quantized, Sensitive, Switch, Tolerance};
use crate::quantize::encoding::Encoding;

/// Blocks of `block_size` values, rounded to the nearest of `2^bits` values.
pub(super) const fn format(
    bits: usize,
    block_size: usize,
    name: &'static str,
    about: &'static str,
) -> FormatSpec {
    let switch = if bits == 4 {
        Switch::Use4Bit
    } else {
        Switch::Use8Bit
    };
    FormatSpec {
        name,
        about,
        keys: Keys {
            switch: Some(switch),
            scheme: "rtn",
        },
        encoding: Encoding::Even { bits, block_size },
        quantize: round,
        has_zeros: false,
        sensitive: if bits == 4 {
            Sensitive::EightBits
        } else {
            Sensitive::Same
        },
        has_row_lookup: true,
        tolerance: tolerance(bits, block_size),
    }
}

/// The largest of more values is larger, and with it the steps.
pub(super) const fn tolerance(bits: usize, block_size: usize) -> Tolerance {
    match (bits, block_size > 64) {
        (4, false) => Tolerance {
            dense: 7.5e-1,
            routed: 1.0,
        },
        (4, true) => Tolerance {
            dense: 1.0,
            routed: 1.2,
        },
        (_, false) => Tolerance {
            dense: 1e-1,
            routed: 3e-1,
        },
        (_, true) => Tolerance {
            dense: 1.5e-1,
            routed: 4e-1,
        },
    }
}

/// Rounds every block to `2^bits` values that are symmetric around zero. The value with the largest
/// magnitude becomes the lowest one.
fn round(values: &[f32], columns: usize, encoding: Encoding) -> Quantized {
    let (bits, size) = (encoding.bits(), encoding.block_size());
    let middle = (1 << (bits - 1)) as f32;
    let most = 2.0 * middle - 1.0;
    let blocks = values.len() / columns.max(1) * columns.div_ceil(size);
    let mut codes = Vec::with_capacity(blocks * size * bits / 8);
    let mut scales = Vec::with_capacity(blocks);
    let mut block = vec![0.0_f32; size];
    let mut rounded = vec![0_u8; size];
    for row in values.chunks_exact(columns) {
        for chunk in row.chunks(size) {
            block[..chunk.len()].copy_from_slice(chunk);
            block[chunk.len()..].fill(0.0);
            let least = block.iter().copied().fold(f32::INFINITY, f32::min);
            let largest = block.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            // Of two of the same size the negative one counts.
            let extreme = if largest.abs() > least.abs() {
                largest
            } else {
                least
            };
            let scale = extreme / -middle;
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            // To the nearest, and up from half way, as `round` does it: that's a call for each
            // value where the processor isn't known to have an instruction for it.
            let code = |value: f32| {
                let place = (value * inverse + middle).clamp(0.0, most);
                let whole = place as i32;
                (whole + i32::from(place - whole as f32 >= 0.5)) as u8
            };
            // A plain loop: `map` of an array is a call for each value in a build like this one.
            for (to, value) in rounded.iter_mut().zip(&block) {
                *to = code(*value);
            }
            pack(&rounded, bits, &mut codes);
            scales.push(scale);
        }
    }
    Quantized {
        codes,
        scales,
        zeros: Vec::new(),
    }
}

/// Appends codes, one a byte, as they're stored: two 4-bit codes in a byte, the first in the lower
/// half.
pub(super) fn pack(codes: &[u8], bits: usize, to: &mut Vec<u8>) {
    match bits {
        4 => {
            for pair in codes.chunks(2) {
                to.push(pair[0] | (pair.get(1).copied().unwrap_or(0) << 4));
            }
        }
        _ => to.extend_from_slice(codes),
    }
}
