//! The forms that a weight of `[out_features, in_features]` is quantized to.
//!
//! | | a block | codes | a block's scale | operator |
//! | --- | --- | --- | --- | --- |
//! | `4bit` | 32 of a row | U8 `[out, blocks, 16]`, the first of two in the lower half | the value of largest size / −8 | `MatMulNBits` |
//! | `8bit` | 32 of a row | U8 `[out, blocks, 32]` | the value of largest size / −128 | `MatMulNBits` |
//! | `nf4` | 64 of all rows in order | U8 `[elements / 2]`, the first of two in the upper half | the largest size | `MatMulBnb4` |
//!
//! A code `c` of the first two stands for `(c − 8) · scale` and `(c − 128) · scale`, one of `nf4` for `NF4[c] · scale`. The
//! last block of a row is filled with zeros. Scales are worked out in float32, and stored in the type of the products' inputs:
//! float32 on a CPU, float16 or bfloat16 on a GPU.
//!
//! Sources: onnxruntime, `ContribOperators.md` and `core/mlas/lib/q4_dq.cpp`,
//! `contrib_ops/cpu/quantization/blockwise_quant_block_bnb4.h`; Dettmers et al., arXiv:2305.14314 (NF4); bitsandbytes,
//! `csrc/kernels.cu`.

use serde::{Deserialize, Serialize};

use crate::weights::{CodeTable, Dtype, Encoding, NF4};

/// The form of one quantized weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Format {
    /// Rounded to 16 steps a block.
    #[serde(rename = "4bit")]
    Int4,
    /// Rounded to 256 steps a block.
    #[serde(rename = "8bit")]
    Int8,
    /// Rounded to the 16 quantiles of a normal distribution, as bitsandbytes does.
    #[serde(rename = "nf4")]
    Nf4,
}

impl Format {
    /// Its name in options, folders and results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int4 => "4bit",
            Self::Int8 => "8bit",
            Self::Nf4 => "nf4",
        }
    }

    /// How its values are encoded.
    pub fn encoding(self) -> Encoding {
        match self {
            Self::Int4 => Encoding::Even {
                bits: 4,
                block_size: 32,
            },
            Self::Int8 => Encoding::Even {
                bits: 8,
                block_size: 32,
            },
            Self::Nf4 => Encoding::Table {
                table: CodeTable::Nf4,
                block_size: 64,
            },
        }
    }

    /// Bits of a code.
    pub fn bits(self) -> usize {
        self.encoding().bits()
    }

    /// Values that share a scale.
    pub fn block_size(self) -> usize {
        self.encoding().block_size()
    }

    /// Shapes of codes (bytes) and scales of a weight of `rows` × `columns`.
    pub fn shapes(self, rows: usize, columns: usize) -> [Vec<usize>; 2] {
        self.encoding().shapes(rows, columns)
    }

    /// Bytes of codes and of scales in `scales_type` together.
    pub fn bytes(self, rows: usize, columns: usize, scales_type: Dtype) -> u64 {
        let [codes, scales] = self.shapes(rows, columns);
        let count = |shape: &[usize]| shape.iter().product::<usize>() as u64;
        count(&codes) + scales_type.size() as u64 * count(&scales)
    }

    /// Quantizes whole rows, one behind the other. Of `nf4`, rows that others follow must fill whole blocks.
    ///
    /// Every value must be finite.
    pub fn quantize(self, values: &[f32], columns: usize) -> Quantized {
        match self {
            Self::Int4 | Self::Int8 => steps(values, columns, self.bits()),
            Self::Nf4 => nf4(values),
        }
    }

    /// The values that codes and scales stand for.
    pub fn dequantize(self, codes: &[u8], scales: &[f32], rows: usize, columns: usize) -> Vec<f32> {
        let block = self.block_size();
        match self {
            Self::Int4 | Self::Int8 => {
                let blocks = columns.div_ceil(block);
                let middle = 1_i32 << (self.bits() - 1);
                let code = |index: usize| match self {
                    Self::Int8 => codes[index],
                    _ => (codes[index / 2] >> (4 * (index % 2))) & 15,
                };
                let mut values = Vec::with_capacity(rows * columns);
                for row in 0..rows {
                    for column in 0..columns {
                        let at = row * blocks + column / block;
                        let code = code(at * block + column % block);
                        values.push((i32::from(code) - middle) as f32 * scales[at]);
                    }
                }
                values
            }
            Self::Nf4 => (0..rows * columns)
                .map(|index| {
                    let code = (codes[index / 2] >> (4 * (1 - index % 2))) & 15;
                    NF4[usize::from(code)] * scales[index / block]
                })
                .collect(),
        }
    }

    /// Rows that are quantized at a time: about `elements`, and whole blocks.
    pub fn rows_at_once(self, columns: usize, elements: usize) -> usize {
        let rows = (elements / columns.max(1)).max(1);
        match self {
            Self::Int4 | Self::Int8 => rows,
            Self::Nf4 => rows.next_multiple_of(self.block_size()),
        }
    }
}

/// Codes and scales.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantized {
    /// Packed.
    pub codes: Vec<u8>,
    /// One a block.
    pub scales: Vec<f32>,
}

/// Rounds every block to `2^bits` steps that are symmetric around zero, with the value of largest size at the lowest one.
fn steps(values: &[f32], columns: usize, bits: usize) -> Quantized {
    const BLOCK: usize = 32;
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
            // To the nearest, and up from half way, as `round` does it: that's a call for each value where the
            // processor isn't known to have an instruction for it.
            let code = |value: f32| {
                let place = (value * inverse + middle).clamp(0.0, most);
                let whole = place as i32;
                (whole + i32::from(place - whole as f32 >= 0.5)) as u8
            };
            let block = block.map(code);
            match bits {
                4 => codes.extend(block.as_chunks::<2>().0.iter().map(|[a, b]| a | (b << 4))),
                _ => codes.extend(block),
            }
            scales.push(scale);
        }
    }
    Quantized { codes, scales }
}

/// A value above the `i`-th of these isn't rounded to the `i`-th of [`NF4`], nor to a smaller one. They are bitsandbytes':
/// the middles, but for the twelfth, which lies a millionth higher.
const NF4_THRESHOLDS: [f32; 15] = [
    -0.848_096_43,
    -0.610_632_9,
    -0.459_995_27,
    -0.339_679_42,
    -0.234_607_4,
    -0.137_911_74,
    -0.045_525_018,
    0.039_790_15,
    0.120_255_254,
    0.203_521_25,
    0.292_013_76,
    0.389_312_54,
    0.501_663_4,
    0.642_786_9,
    0.861_478_4,
];

fn nf4(values: &[f32]) -> Quantized {
    const BLOCK: usize = 64;
    let mut codes = Vec::with_capacity(values.len().div_ceil(2));
    let mut scales = Vec::with_capacity(values.len().div_ceil(BLOCK));
    for block in values.chunks(BLOCK) {
        let scale = block
            .iter()
            .fold(0.0_f32, |most, value| most.max(value.abs()));
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let code = |value: f32| {
            let value = value * inverse;
            let above = NF4_THRESHOLDS
                .iter()
                .filter(|&&threshold| value > threshold);
            above.count() as u8
        };
        for pair in block.chunks(2) {
            let second = pair.get(1).map_or(0, |&value| code(value));
            codes.push((code(pair[0]) << 4) | second);
        }
        scales.push(scale);
    }
    Quantized { codes, scales }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::SafetensorsFile;
    use std::path::Path;

    /// What onnxruntime's quantizers (and bitsandbytes') make of the same values, bit for bit.
    #[test]
    fn codes_scales_and_dequantized_values_are_those_of_others() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/quantized");
        let file = SafetensorsFile::open(&fixtures.join("quantized.safetensors")).unwrap();
        let names = file.names();
        let matrices: Vec<&str> = names
            .iter()
            .filter_map(|name| name.strip_suffix(".w"))
            .collect();
        assert_eq!(matrices.len(), 5);
        for matrix in matrices {
            let name = format!("{matrix}.w");
            let weight = file.get(&name).unwrap();
            let [rows, columns] = weight.shape[..] else {
                panic!("{name}")
            };
            let values = weight.to_f32().unwrap();
            for format in [Format::Int4, Format::Int8, Format::Nf4] {
                let label = format!("{matrix}.{}", format.name());
                let [codes, scales, dequantized] =
                    ["codes", "scales", "dequantized"].map(|part| format!("{label}.{part}"));
                let [codes, scales, dequantized] =
                    [&codes, &scales, &dequantized].map(|name| file.get(name).unwrap());
                assert_eq!(
                    format.shapes(rows, columns),
                    [codes.shape.to_vec(), scales.shape.to_vec()],
                    "{label}"
                );
                let found = format.quantize(&values, columns);
                let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                let expected = scales.to_f32().unwrap();
                assert_eq!(bits(&found.scales), bits(&expected), "{label}");
                assert_eq!(found.codes, codes.bytes, "{label}");
                let made = format.dequantize(&found.codes, &found.scales, rows, columns);
                assert_eq!(made, dequantized.to_f32().unwrap(), "{label}");
            }
        }
    }

    #[test]
    fn rows_quantized_apart_are_the_same() {
        let columns = 48;
        let values: Vec<f32> = (0..columns * 128)
            .map(|i| ((i * 37 % 101) as f32) - 50.0)
            .collect();
        for format in [Format::Int4, Format::Int8, Format::Nf4] {
            let whole = format.quantize(&values, columns);
            let rows = format.rows_at_once(columns, 100);
            let mut parts = Quantized {
                codes: Vec::new(),
                scales: Vec::new(),
            };
            for part in values.chunks(rows * columns) {
                let part = format.quantize(part, columns);
                parts.codes.extend(part.codes);
                parts.scales.extend(part.scales);
            }
            assert_eq!(parts, whole, "{format:?}");
        }
    }
}
