//! Scales and zero points as the schemes store them, read as one value a row and group.

use std::ops::Range;

use super::bits::{code_in, word};
use super::tables::e8m0;
use crate::weights::{TensorHandle, TensorView, widen};

/// Which group a column belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Groups {
    /// Groups of this many columns, one after the other.
    Size(usize),
    /// Each column's group (GPTQ's `g_idx`).
    Listed(Vec<u32>),
}

impl Groups {
    /// The group of `column`.
    pub fn of(&self, column: usize) -> usize {
        match self {
            Self::Size(size) => column / size,
            Self::Listed(groups) => groups[column] as usize,
        }
    }
}

/// Where scales are stored.
#[derive(Debug, Clone)]
pub enum Scales {
    /// `[groups, rows]`
    ByGroup(TensorHandle),
    /// `[rows, groups]`, `[rows]`, or one value for all; times `factor`.
    ByRow {
        /// The tensor.
        tensor: TensorHandle,
        /// What its values are multiplied by.
        factor: f32,
    },
    /// One for each tile of this many rows; a tile's columns are a group. `[tiles, groups]`.
    Tiles {
        /// The tensor, whose axes before the last two are stacked matrices.
        tensor: TensorHandle,
        /// Rows of a tile.
        rows: usize,
        /// Rows of each stacked matrix.
        matrix: usize,
    },
    /// One for each block of a matrix's values in their order: bitsandbytes' `absmax`.
    Flat(Absmax),
}

/// bitsandbytes' scales, which may be quantized themselves.
#[derive(Debug, Clone)]
pub struct Absmax {
    /// `absmax`: float32, or codes of 8 bits.
    pub tensor: TensorHandle,
    /// Values that share a scale.
    pub block: usize,
    /// What codes stand for.
    pub nested: Option<Nested>,
}

/// Quantized scales: `map[code] · absmax[index / block] + offset`.
#[derive(Debug, Clone)]
pub struct Nested {
    /// The values of the codes.
    pub map: Vec<f32>,
    /// Their scales.
    pub absmax: Vec<f32>,
    /// Scales that share one.
    pub block: usize,
    /// Added to all.
    pub offset: f32,
}

impl Absmax {
    /// The scales of these blocks.
    pub fn blocks(&self, blocks: Range<usize>) -> Vec<f32> {
        let view = self.tensor.view();
        match &self.nested {
            None => floats(&view, blocks),
            Some(nested) => blocks
                .map(|index| {
                    let value = nested.map[usize::from(view.bytes[index])];
                    value * nested.absmax[index / nested.block] + nested.offset
                })
                .collect(),
        }
    }
}

impl Scales {
    /// The scales of these rows, `[rows, groups]`.
    ///
    /// # Panics
    /// For scales of blocks that don't belong to rows.
    pub fn rows(&self, rows: Range<usize>, groups: usize) -> Vec<f32> {
        match self {
            Self::ByGroup(tensor) => by_group(
                rows,
                groups,
                |from, to| floats(&tensor.view(), from..to),
                tensor,
            ),
            Self::ByRow { tensor, factor } => {
                let view = tensor.view();
                let found = match view.elements() {
                    1 => vec![floats(&view, 0..1)[0]; rows.len() * groups],
                    _ => floats(&view, rows.start * groups..rows.end * groups),
                };
                found.into_iter().map(|scale| scale * factor).collect()
            }
            Self::Tiles {
                tensor,
                rows: tile,
                matrix,
            } => {
                let view = tensor.view();
                let tiles = matrix.div_ceil(*tile);
                rows.flat_map(|row| {
                    let line = row / matrix * tiles + row % matrix / tile;
                    floats(&view, line * groups..(line + 1) * groups)
                })
                .collect()
            }
            Self::Flat(_) => unreachable!("blocks may span rows"),
        }
    }

    /// Bytes of the tensor.
    pub fn stored_bytes(&self) -> u64 {
        match self {
            Self::ByGroup(tensor) | Self::ByRow { tensor, .. } | Self::Tiles { tensor, .. } => {
                tensor.view().stored_bytes()
            }
            Self::Flat(absmax) => absmax.tensor.view().stored_bytes(),
        }
    }
}

/// Turns values that are stored `[groups, rows]` into `[rows, groups]`.
fn by_group(
    rows: Range<usize>,
    groups: usize,
    read: impl Fn(usize, usize) -> Vec<f32>,
    tensor: &TensorHandle,
) -> Vec<f32> {
    let all = tensor.view().shape[1];
    let mut found = vec![0.0; rows.len() * groups];
    for group in 0..groups {
        let line = read(group * all + rows.start, group * all + rows.end);
        for (row, value) in line.into_iter().enumerate() {
            found[row * groups + group] = value;
        }
    }
    found
}

/// Elements of a tensor of floats, or of exponents.
pub fn floats(view: &TensorView, range: Range<usize>) -> Vec<f32> {
    match (view.dtype(), view.stored) {
        (Ok(dtype), _) => {
            let size = dtype.size();
            widen(&view.bytes[range.start * size..range.end * size], dtype)
        }
        (Err(_), _) => view.bytes[range].iter().map(|&code| e8m0(code)).collect(),
    }
}

/// Where zero points are stored.
#[derive(Debug, Clone)]
pub enum Zeros {
    /// The middle of the codes, everywhere.
    Middle,
    /// GPTQ: `[groups, words]`, codes packed along the rows. `added` is what isn't stored.
    ByGroup {
        /// The tensor.
        tensor: TensorHandle,
        /// 1 for the first version of the format, which stores one less.
        added: u8,
    },
    /// AWQ: `[groups, words]`, in the order of its codes.
    Awq(TensorHandle),
    /// compressed-tensors: `[words, groups]`, codes packed along the rows.
    ByRow(TensorHandle),
    /// Signed bytes: `[rows, groups]`, or one value for all.
    Signed(TensorHandle),
}

/// The place in a word of AWQ's columns: bits `4 · PLACES[i]` hold column `i`.
pub const AWQ_PLACES: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

impl Zeros {
    /// The zero points of these rows, `[rows, groups]`; `None` if they're all in the middle.
    pub fn rows(&self, rows: Range<usize>, groups: usize, bits: usize) -> Option<Vec<u8>> {
        let each = |of: &dyn Fn(usize, usize) -> u8| {
            let cells = rows
                .clone()
                .flat_map(|row| (0..groups).map(move |group| (row, group)));
            Some(cells.map(|(row, group)| of(row, group)).collect())
        };
        match self {
            Self::Middle => None,
            Self::ByGroup { tensor, added } => {
                let view = tensor.view();
                let (words, most) = (view.shape[1], (1_u16 << bits) - 1);
                each(&|row, group| {
                    let stored = code_in(|at| word(view.bytes, group * words + at), row, bits);
                    ((u16::from(stored) + u16::from(*added)) & most) as u8
                })
            }
            Self::Awq(tensor) => {
                let view = tensor.view();
                let words = view.shape[1];
                each(&|row, group| {
                    let packed = word(view.bytes, group * words + row / 8);
                    (packed >> (4 * AWQ_PLACES[row % 8]) & 15) as u8
                })
            }
            Self::ByRow(tensor) => {
                let view = tensor.view();
                each(&|row, group| code_in(|at| word(view.bytes, at * groups + group), row, bits))
            }
            Self::Signed(tensor) => {
                let view = tensor.view();
                let one = view.elements() == 1;
                let middle = 1_u8 << (bits - 1);
                each(&|row, group| {
                    let at = if one { 0 } else { row * groups + group };
                    view.bytes[at].wrapping_add(middle)
                })
            }
        }
    }

    /// Bytes of the tensor.
    pub fn stored_bytes(&self) -> u64 {
        match self {
            Self::Middle => 0,
            Self::ByGroup { tensor, .. }
            | Self::Awq(tensor)
            | Self::ByRow(tensor)
            | Self::Signed(tensor) => tensor.view().stored_bytes(),
        }
    }
}
