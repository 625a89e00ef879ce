//! Where a quantized weight is stored and how its values are encoded, independent of who quantized
//! it.

use super::{ByteSpan, Dtype};

/// How a quantized weight's values are encoded: codes of a few bits, and one scale per block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// `(code − 2^(bits − 1)) · scale`: evenly spaced, and symmetric around zero.
    ///
    /// A block is a part of a row; a row's last block is padded with zeros. Codes are U8 `[rows,
    /// blocks, bytes]`; of two codes in a byte, the first is in the lower half. Scales are `[rows,
    /// blocks]`.
    Even {
        /// Bits of a code.
        bits: usize,
        /// Values that share a scale.
        block_size: usize,
    },
    /// `table[code] · scale`.
    ///
    /// Blocks run through the rows without a break. Codes are U8 `[elements / 2]`; of two codes in
    /// a byte, the first is in the upper half. Scales are `[blocks]`.
    Table {
        /// The values of the 16 codes.
        table: CodeTable,
        /// Values that share a scale.
        block_size: usize,
    },
}

/// A table that maps 4-bit codes to values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeTable {
    /// bitsandbytes' NF4 ([`NF4`]).
    Nf4,
}

/// The values of the NF4 codes before scaling: quantiles of a normal distribution, scaled to −1 …
/// 1.
pub const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

impl CodeTable {
    /// The value of each code.
    pub fn values(self) -> &'static [f32; 16] {
        match self {
            Self::Nf4 => &NF4,
        }
    }
}

impl Encoding {
    /// Bits of a code.
    pub fn bits(self) -> usize {
        match self {
            Self::Even { bits, .. } => bits,
            Self::Table { .. } => 4,
        }
    }

    /// Values that share a scale.
    pub fn block_size(self) -> usize {
        match self {
            Self::Even { block_size, .. } | Self::Table { block_size, .. } => block_size,
        }
    }

    /// Shapes of the codes (bytes) and the scales of a weight of `rows` × `columns`.
    pub fn shapes(self, rows: usize, columns: usize) -> [Vec<usize>; 2] {
        match self {
            Self::Even { bits, block_size } => {
                let blocks = columns.div_ceil(block_size);
                let bytes = block_size * bits / 8;
                [vec![rows, blocks, bytes], vec![rows, blocks]]
            }
            Self::Table { block_size, .. } => {
                let elements = rows * columns;
                [
                    vec![elements.div_ceil(2)],
                    vec![elements.div_ceil(block_size)],
                ]
            }
        }
    }
}

/// The location of a quantized weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuantizedWeight {
    /// How its values are encoded.
    pub encoding: Encoding,
    /// `out_features`
    pub rows: usize,
    /// `in_features`
    pub columns: usize,
    /// The codes.
    pub codes: ByteSpan,
    /// The scales.
    pub scales: ByteSpan,
    /// The scales' type.
    pub scales_type: Dtype,
}
