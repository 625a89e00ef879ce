//! What the formats with searched zero points share: blocks of a row in 4 bits, each with a scale
//! and a zero point, which is a code.

use super::steps::{pack, tolerance};
use super::{FormatSpec, Keys, Quantized, Sensitive, Switch};
use crate::quantize::encoding::Encoding;

const BITS: usize = 4;

/// The largest code.
pub(super) const MOST: f32 = 15.0;

/// Blocks of `block_size` values, which `quantize` makes.
pub(super) const fn format(
    block_size: usize,
    name: &'static str,
    about: &'static str,
    scheme: &'static str,
    quantize: fn(&[f32], usize, Encoding) -> Quantized,
) -> FormatSpec {
    FormatSpec {
        name,
        about,
        keys: Keys {
            switch: Some(Switch::Use4Bit),
            scheme,
        },
        encoding: Encoding::Even {
            bits: BITS,
            block_size,
        },
        quantize,
        has_zeros: true,
        sensitive: Sensitive::EightBits,
        // `GatherBlockQuantized` has zero points, but no test of them here.
        has_row_lookup: false,
        tolerance: tolerance(BITS, block_size),
    }
}

/// Quantizes rows of `columns` values in blocks of `size`. `search` writes a block's codes, and
/// returns its scale and its zero point. A row's last block is filled up with zeros.
pub(super) fn quantize(
    values: &[f32],
    columns: usize,
    size: usize,
    mut search: impl FnMut(&[f32], &mut [u8]) -> (f32, u8),
) -> Quantized {
    let blocks = values.len() / columns.max(1) * columns.div_ceil(size);
    let mut made = Quantized {
        codes: Vec::with_capacity(blocks * size / 2),
        scales: Vec::with_capacity(blocks),
        zeros: Vec::with_capacity(blocks.div_ceil(2)),
    };
    let mut block = vec![0.0; size];
    let mut codes = vec![0_u8; size];
    let mut zeros = Vec::new();
    for row in values.chunks_exact(columns) {
        zeros.clear();
        for chunk in row.chunks(size) {
            block[..chunk.len()].copy_from_slice(chunk);
            block[chunk.len()..].fill(0.0);
            let (scale, zero) = search(&block, &mut codes);
            pack(&codes, BITS, &mut made.codes);
            made.scales.push(scale);
            zeros.push(zero);
        }
        pack(&zeros, BITS, &mut made.zeros);
    }
    made
}
