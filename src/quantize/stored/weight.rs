//! A weight as a quantized checkpoint stores it: codes, and what they stand for.

use std::ops::Range;
use std::path::Path;
use std::sync::LazyLock;

use super::bits::{code_in, word};
use super::scales::{AWQ_PLACES, Groups, Scales, Zeros};
use crate::weights::{Dtype, PackedMatrix, TensorHandle, round_to};

/// A quantized matrix `[out_features, in_features]`, or a stack of such matrices.
#[derive(Debug, Clone)]
pub struct StoredWeight {
    pub(super) name: String,
    /// The shape of its values.
    pub(super) shape: Vec<usize>,
    pub(super) codes: Codes,
    pub(super) values: Values,
    pub(super) scales: Scales,
    pub(super) groups: Groups,
    /// The dtype that the scheme rounds dequantized values to; float32 if it doesn't.
    pub(super) rounded: Dtype,
}

/// Codes, scales and zero points of some rows.
#[derive(Debug, Clone)]
pub struct Parts {
    /// One a byte, `[rows, columns]`.
    pub codes: Vec<u8>,
    /// `[rows, groups]`, or one for each block that the rows' values are in.
    pub scales: Vec<f32>,
    /// `[rows, groups]`; `None` if they're all in the middle.
    pub zeros: Option<Vec<u8>>,
    /// The first row.
    pub first: usize,
}

/// How codes are stored.
#[derive(Debug, Clone)]
pub enum Codes {
    /// GPTQ: int32 `[words, rows]`, a dense stream along the columns.
    ByColumn {
        /// The tensor.
        tensor: TensorHandle,
        /// Bits of a code.
        bits: usize,
    },
    /// AWQ: int32 `[columns, rows / 8]`, in an order of its own.
    Awq(TensorHandle),
    /// compressed-tensors: int32 `[rows, words]`, a dense stream along the columns.
    ByRow {
        /// The tensor.
        tensor: TensorHandle,
        /// Bits of a code.
        bits: usize,
    },
    /// Two codes in a byte, through all rows without a break.
    Nibbles {
        /// The tensor.
        tensor: TensorHandle,
        /// Whether the first one is in the upper half.
        high_first: bool,
        /// The rows that belong to this weight.
        rows: Selection,
    },
    /// A byte each, `[rows, columns]`.
    Bytes(TensorHandle),
    /// A signed byte each, `[rows, columns]`; its code is 128 more.
    Signed(TensorHandle),
}

/// Rows of a tensor: every `step`-th from `first` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selection {
    /// The first one.
    pub first: usize,
    /// Distance of two.
    pub step: usize,
}

impl Selection {
    /// All rows.
    pub const ALL: Self = Self { first: 0, step: 1 };

    fn row(self, index: usize) -> usize {
        self.first + index * self.step
    }
}

/// What codes stand for, before scaling.
#[derive(Debug, Clone)]
pub enum Values {
    /// `code − zero`
    Integers {
        /// Bits of a code.
        bits: usize,
        /// The zero points.
        zeros: Zeros,
    },
    /// The 16 values of a 4-bit type.
    Table {
        /// Its name.
        name: &'static str,
        /// The values.
        values: Vec<f32>,
    },
    /// The 256 values of a float of 8 bits.
    Float8 {
        /// Its name.
        name: &'static str,
        /// The values.
        values: &'static LazyLock<[f32; 256]>,
    },
}

impl Codes {
    fn tensor(&self) -> &TensorHandle {
        match self {
            Self::ByColumn { tensor, .. }
            | Self::Awq(tensor)
            | Self::ByRow { tensor, .. }
            | Self::Nibbles { tensor, .. }
            | Self::Bytes(tensor)
            | Self::Signed(tensor) => tensor,
        }
    }
}

impl StoredWeight {
    /// The name of the weight that it holds, as a checkpoint of floats has it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Rows of all matrices.
    pub fn row_count(&self) -> usize {
        let (_, before) = self.shape.split_last().expect("it's a matrix");
        before.iter().product()
    }

    /// `in_features`
    pub fn columns(&self) -> usize {
        *self.shape.last().expect("it's a matrix")
    }

    /// Groups of a row.
    pub(super) fn group_count(&self) -> usize {
        match &self.groups {
            Groups::Size(size) => self.columns().div_ceil(*size),
            Groups::Listed(groups) => groups.iter().max().map_or(1, |last| *last as usize + 1),
        }
    }

    /// What kind it is, in few words: `4 bits, groups of 128`.
    pub fn kind(&self) -> String {
        let groups = match &self.groups {
            Groups::Size(size) if *size >= self.columns() => String::new(),
            Groups::Size(size) => format!(", groups of {size}"),
            Groups::Listed(_) => {
                let size = self.columns().div_ceil(self.group_count());
                format!(", groups of {size}, act-order")
            }
        };
        match (&self.values, &self.scales) {
            (Values::Table { name, .. }, Scales::Flat(absmax)) => {
                let double = match absmax.nested {
                    Some(_) => ", double quantization",
                    None => "",
                };
                format!(
                    "{}, blocks of {}{double}",
                    name.to_uppercase(),
                    absmax.block
                )
            }
            (Values::Table { .. }, _) => "MXFP4".to_owned(),
            (Values::Integers { bits, .. }, _) => format!("{bits} bits{groups}"),
            (Values::Float8 { name, .. }, Scales::Tiles { rows, .. }) if *rows > 1 => {
                format!("{name}{}", groups.replace("groups of ", "tiles of "))
            }
            (Values::Float8 { name, .. }, _) => format!("{name}{groups}"),
        }
    }

    /// The codes of these rows, one a byte.
    pub(super) fn codes_of(&self, rows: Range<usize>) -> Vec<u8> {
        let columns = self.columns();
        let view = self.codes.tensor().view();
        let bytes = view.bytes;
        match &self.codes {
            Codes::ByColumn { bits, .. } => {
                let all = view.shape[1];
                let mut codes = vec![0; rows.len() * columns];
                for column in 0..columns {
                    for (index, row) in rows.clone().enumerate() {
                        codes[index * columns + column] =
                            code_in(|at| word(bytes, at * all + row), column, *bits);
                    }
                }
                codes
            }
            Codes::Awq(_) => {
                let words = view.shape[1];
                let mut codes = vec![0; rows.len() * columns];
                for column in 0..columns {
                    for (index, row) in rows.clone().enumerate() {
                        let packed = word(bytes, column * words + row / 8);
                        let code = packed >> (4 * AWQ_PLACES[row % 8]) & 15;
                        codes[index * columns + column] = code as u8;
                    }
                }
                codes
            }
            Codes::ByRow { bits, .. } => {
                let words = view.shape[1];
                let code = |row: usize, column: usize| {
                    code_in(|at| word(bytes, row * words + at), column, *bits)
                };
                rows.flat_map(|row| (0..columns).map(move |column| code(row, column)))
                    .collect()
            }
            Codes::Nibbles {
                high_first,
                rows: selected,
                ..
            } => {
                let code = |index: usize| {
                    let upper = index.is_multiple_of(2) == *high_first;
                    (bytes[index / 2] >> if upper { 4 } else { 0 }) & 15
                };
                rows.map(|row| selected.row(row) * columns)
                    .flat_map(|first| (first..first + columns).map(code))
                    .collect()
            }
            Codes::Bytes(_) => bytes[rows.start * columns..rows.end * columns].to_vec(),
            Codes::Signed(_) => bytes[rows.start * columns..rows.end * columns]
                .iter()
                .map(|code| code.wrapping_add(128))
                .collect(),
        }
    }

    /// The scales of these rows, `[rows, groups]`.
    pub(super) fn scales_of(&self, rows: Range<usize>) -> Vec<f32> {
        let groups = self.group_count();
        match &self.codes {
            Codes::Nibbles { rows: selected, .. } if *selected != Selection::ALL => rows
                .flat_map(|row| {
                    let row = selected.row(row);
                    self.scales.rows(row..row + 1, groups)
                })
                .collect(),
            _ => self.scales.rows(rows, groups),
        }
    }

    /// The zero points of these rows, `[rows, groups]`; `None` if they're all in the middle.
    pub(super) fn zeros_of(&self, rows: Range<usize>) -> Option<Vec<u8>> {
        match &self.values {
            Values::Integers { bits, zeros } => zeros.rows(rows, self.group_count(), *bits),
            Values::Table { .. } | Values::Float8 { .. } => None,
        }
    }

    /// What is stored for these rows.
    pub fn parts(&self, rows: Range<usize>) -> Parts {
        let scales = match &self.scales {
            Scales::Flat(absmax) => {
                let [first, last] = [rows.start, rows.end].map(|row| row * self.columns());
                absmax.blocks(first / absmax.block..last.div_ceil(absmax.block))
            }
            _ => self.scales_of(rows.clone()),
        };
        Parts {
            codes: self.codes_of(rows.clone()),
            scales,
            zeros: self.zeros_of(rows.clone()),
            first: rows.start,
        }
    }

    /// The values that `parts` stand for.
    pub fn values(&self, parts: &Parts) -> Vec<f32> {
        let columns = self.columns();
        let Parts {
            codes,
            scales,
            zeros,
            first,
        } = parts;
        let unscaled = |code: u8, zero: Option<u8>| match &self.values {
            Values::Integers { bits, .. } => {
                let zero = zero.map_or(1_i32 << (bits - 1), i32::from);
                (i32::from(code) - zero) as f32
            }
            Values::Table { values, .. } => values[usize::from(code)],
            Values::Float8 { values, .. } => values[usize::from(code)],
        };
        if let Scales::Flat(absmax) = &self.scales {
            let block = absmax.block;
            let first = first * columns;
            let scale = |index: usize| scales[(first + index) / block - first / block];
            return codes
                .iter()
                .enumerate()
                .map(|(index, &code)| round_to(unscaled(code, None) * scale(index), self.rounded))
                .collect();
        }
        let groups = self.group_count();
        let group_of: Vec<usize> = (0..columns).map(|column| self.groups.of(column)).collect();
        codes
            .iter()
            .enumerate()
            .map(|(index, &code)| {
                let at = index / columns * groups + group_of[index % columns];
                let zero = zeros.as_ref().map(|zeros| zeros[at]);
                unscaled(code, zero) * scales[at]
            })
            .collect()
    }
}

impl PackedMatrix for StoredWeight {
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn rows(&self, rows: Range<usize>) -> Vec<f32> {
        self.values(&self.parts(rows))
    }

    fn stored_bytes(&self) -> u64 {
        let zeros = match &self.values {
            Values::Integers { zeros, .. } => zeros.stored_bytes(),
            _ => 0,
        };
        let all = self.codes.tensor().view().stored_bytes() + self.scales.stored_bytes() + zeros;
        match &self.codes {
            // Other rows of the same tensors are other weights.
            Codes::Nibbles { tensor, .. } => {
                let whole = 2 * tensor.view().stored_bytes();
                all * (self.row_count() * self.columns()) as u64 / whole.max(1)
            }
            _ => all,
        }
    }

    fn path(&self) -> &Path {
        self.codes.tensor().path()
    }
}
