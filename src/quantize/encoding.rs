//! How a quantized weight's values are encoded, and where a quantized weight is stored.

use super::operator::{MAT_MUL_BNB4, MAT_MUL_N_BITS, Operator};
use super::table::Table;
use crate::weights::{ByteSpan, Dtype};

/// How a quantized weight's values are encoded: codes of a few bits, and one scale per block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Encoding {
    /// `(code − 2^(bits − 1)) · scale`: evenly spaced, and symmetric around zero.
    ///
    /// A block is a part of a row; a row's last block is padded with zeros. Codes are U8 `[rows,
    /// blocks, bytes]`; of two codes in a byte, the first is in the lower half. Scales are `[rows,
    /// blocks]`.
    Even {
        /// Bits of a code: 2, 4 or 8.
        bits: usize,
        /// Values that share a scale.
        block_size: usize,
    },
    /// `values[code] · scale`.
    ///
    /// Blocks run through the rows without a break. Codes are U8 `[elements / 2]`; of two codes in
    /// a byte, the first is in the upper half. Scales are `[blocks]`.
    Table {
        /// The values of the 16 codes.
        table: &'static Table,
        /// Values that share a scale.
        block_size: usize,
    },
}

impl Encoding {
    /// The operator for products with such weights.
    pub fn operator(self) -> &'static Operator {
        match self {
            Self::Even { .. } => &MAT_MUL_N_BITS,
            Self::Table { .. } => &MAT_MUL_BNB4,
        }
    }

    /// The operator's attributes, apart from sizes, block size and accuracy.
    pub fn attributes(self) -> [(&'static str, i64); 1] {
        match self {
            Self::Even { bits, .. } => [("bits", bits as i64)],
            Self::Table { table, .. } => [("quant_type", table.quant_type)],
        }
    }

    /// Bytes of codes, and of scales in `scales_type`.
    pub fn bytes(self, rows: usize, columns: usize, scales_type: Dtype) -> u64 {
        let [codes, scales] = self.shapes(rows, columns);
        let count = |shape: &[usize]| shape.iter().product::<usize>() as u64;
        count(&codes) + scales_type.size() as u64 * count(&scales)
    }

    /// The shape of packed zero points, one code a block: `[rows, bytes]`.
    pub fn zeros_shape(self, rows: usize, columns: usize) -> Vec<usize> {
        let blocks = columns.div_ceil(self.block_size());
        vec![rows, (blocks * self.bits()).div_ceil(8)]
    }

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

    /// Whether codes are evenly spaced, with zero in the middle.
    pub fn is_symmetric(self) -> bool {
        matches!(self, Self::Even { .. })
    }

    /// Whether the last block of a weight with this many `elements` is neither full nor padded.
    pub fn ends_within_block(self, elements: usize) -> bool {
        match self {
            Self::Even { .. } => false,
            Self::Table { block_size, .. } => !elements.is_multiple_of(block_size),
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

    /// The dequantized values.
    pub fn dequantize(
        self,
        codes: &[u8],
        scales: &[f32],
        zeros: Option<&[u8]>,
        rows: usize,
        columns: usize,
    ) -> Vec<f32> {
        match self {
            Self::Even { bits, block_size } => {
                let blocks = columns.div_ceil(block_size);
                let middle = 1_i32 << (bits - 1);
                let in_a_byte = 8 / bits;
                let mask = ((1_u16 << bits) - 1) as u8;
                let nth = |codes: &[u8], index: usize| {
                    (codes[index / in_a_byte] >> (bits * (index % in_a_byte))) & mask
                };
                let zeros_of_row = (blocks * bits).div_ceil(8);
                let zero = |row: usize, block: usize| {
                    zeros.map_or(middle, |zeros| {
                        i32::from(nth(&zeros[row * zeros_of_row..], block))
                    })
                };
                let mut values = Vec::with_capacity(rows * columns);
                for row in 0..rows {
                    for column in 0..columns {
                        let at = row * blocks + column / block_size;
                        let code = nth(codes, at * block_size + column % block_size);
                        let zero = zero(row, column / block_size);
                        values.push((i32::from(code) - zero) as f32 * scales[at]);
                    }
                }
                values
            }
            Self::Table { table, block_size } => (0..rows * columns)
                .map(|index| {
                    let code = (codes[index / 2] >> (4 * (1 - index % 2))) & 15;
                    table.values[usize::from(code)] * scales[index / block_size]
                })
                .collect(),
        }
    }

    /// Number of rows that are quantized at a time: about `elements`, and whole blocks.
    pub fn rows_at_once(self, columns: usize, elements: usize) -> usize {
        let rows = (elements / columns.max(1)).max(1);
        match self {
            Self::Even { .. } => rows,
            Self::Table { block_size, .. } => rows.next_multiple_of(block_size),
        }
    }
}

/// The location of a quantized weight.
#[derive(Debug, Clone, PartialEq)]
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
    /// The zero points, packed like codes, one a block; `None` if they're in the middle.
    pub zeros: Option<ByteSpan>,
    /// The order in which the codes have the columns, as int64; `None` if it's their own.
    pub order: Option<ByteSpan>,
}

impl QuantizedWeight {
    /// Its first `rows` rows.
    pub fn first_rows(mut self, rows: usize) -> Self {
        let of = self.rows as u64;
        if rows < self.rows {
            let spans = [
                Some(&mut self.codes),
                Some(&mut self.scales),
                self.zeros.as_mut(),
            ];
            for span in spans.into_iter().flatten() {
                span.length = span.length / of * rows as u64;
            }
            self.rows = rows;
        }
        self
    }

    /// Shapes of the codes (bytes) and the scales.
    pub fn shapes(&self) -> [Vec<usize>; 2] {
        self.encoding.shapes(self.rows, self.columns)
    }
}
