//! Rounding to evenly spaced values, in blocks of a row.

use super::Quantized;

/// Values that share a scale.
pub const BLOCK: usize = 32;

/// Rounds every block to `2^bits` values that are symmetric around zero. The value with the largest
/// magnitude becomes the lowest one.
pub fn round(values: &[f32], columns: usize, bits: usize) -> Quantized {
    let middle = (1 << (bits - 1)) as f32;
    let most = 2.0 * middle - 1.0;
    let blocks = values.len() / columns.max(1) * columns.div_ceil(BLOCK);
    let mut codes = Vec::with_capacity(blocks * BLOCK * bits / 8);
    let mut scales = Vec::with_capacity(blocks);
    for row in values.chunks_exact(columns) {
        for chunk in row.chunks(BLOCK) {
            let mut block = [0.0_f32; BLOCK];
            block[..chunk.len()].copy_from_slice(chunk);
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
            let mut rounded = [0_u8; BLOCK];
            for (to, value) in rounded.iter_mut().zip(block) {
                *to = code(value);
            }
            match bits {
                4 => {
                    let mut pairs = [0_u8; BLOCK / 2];
                    for (pair, [a, b]) in pairs.iter_mut().zip(rounded.as_chunks::<2>().0) {
                        *pair = a | (b << 4);
                    }
                    codes.extend_from_slice(&pairs);
                }
                _ => codes.extend_from_slice(&rounded),
            }
            scales.push(scale);
        }
    }
    Quantized { codes, scales }
}
