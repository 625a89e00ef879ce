//! How a graph uses a stored weight: with its codes, in the layout of ONNX Runtime's operators, or
//! dequantized.
//!
//! Nothing is rounded again. `MatMulNBits` takes codes of 2, 4 and 8 bits in blocks of a power of
//! two; codes of 3 bits are stored in 4. A group is one or more blocks. Columns whose groups are
//! listed (act-order) are put in the order of their groups, and so is the product's input.
//! `MatMulBnb4` takes NF4 and FP4 as they are. MXFP4's values are halves, so twice a value is a
//! code of 8 bits.

use std::borrow::Cow;

use super::bits::pack;
use super::scales::{Groups, Scales};
use super::tables::E2M1;
use super::weight::{Codes, Parts, Selection, StoredWeight, Values};
use crate::quantize::table::{FP4, NF4, Table};
use crate::quantize::{Accuracy, Encoding};
use crate::weights::{ByteSpan, Dtype};

/// The block sizes of `MatMulNBits`.
const BLOCKS: [usize; 5] = [256, 128, 64, 32, 16];

/// The block size where a row has one scale.
const BLOCK_OF_ROWS: usize = 128;

/// Which weights of a quantized base keep their codes, and how products with them are computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KeptBase {
    /// Codes are kept where products with them are what the scheme itself computes: not for
    /// bitsandbytes' 4 bits with a 16-bit dtype, since bitsandbytes rounds every dequantized value
    /// to it.
    #[default]
    Exact,
    /// Codes are kept wherever ONNX Runtime has an operator for them.
    Codes,
    /// Everything is dequantized once.
    Float,
}

impl KeptBase {
    /// All choices.
    pub const ALL: [Self; 3] = [Self::Exact, Self::Codes, Self::Float];

    /// The choice of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kept| kept.name() == name)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Codes => "codes",
            Self::Float => "float",
        }
    }
}

/// How a graph uses a weight.
#[derive(Debug, Clone, PartialEq)]
pub enum Form {
    /// Its codes.
    Codes(CodesForm),
    /// Its values.
    Float {
        /// The dtype that holds them exactly.
        dtype: Dtype,
        /// Why codes aren't kept.
        reason: &'static str,
    },
}

/// How codes are laid out.
#[derive(Debug, Clone, PartialEq)]
pub struct CodesForm {
    /// What the codes stand for.
    pub encoding: Encoding,
    /// Whether blocks have zero points.
    pub has_zeros: bool,
    /// The stored column of each column; `None` if that's its own.
    pub order: Option<Vec<u32>>,
    /// Columns of a group.
    group: usize,
}

impl StoredWeight {
    /// How a graph uses it.
    pub fn form(&self, kept: KeptBase) -> Form {
        match self.codes_form(kept) {
            Ok(form) => Form::Codes(form),
            Err(reason) => Form::Float {
                dtype: self.rounded,
                reason,
            },
        }
    }

    fn codes_form(&self, kept: KeptBase) -> Result<CodesForm, &'static str> {
        if kept == KeptBase::Float {
            return Err("dequantizing was asked for");
        }
        if self.shape.len() != 2 {
            return Err("the experts' weights are stacked");
        }
        match (&self.values, &self.scales) {
            (Values::Table { values, .. }, Scales::Flat(absmax)) => {
                if self.rounded != Dtype::Float32 && kept == KeptBase::Exact {
                    return Err("bitsandbytes rounds each dequantized value to 16 bits");
                }
                let table = known_table(values).ok_or("the checkpoint has a table of its own")?;
                let elements = self.row_count() * self.columns();
                if !elements.is_multiple_of(absmax.block) {
                    return Err("its last block isn't full");
                }
                Ok(CodesForm {
                    encoding: Encoding::Table {
                        table,
                        block_size: absmax.block,
                    },
                    has_zeros: false,
                    order: None,
                    group: absmax.block,
                })
            }
            (Values::Table { values, .. }, _) => {
                debug_assert_eq!(values[..], E2M1);
                let Groups::Size(group) = self.groups else {
                    return Err("groups are listed");
                };
                Ok(CodesForm {
                    encoding: Encoding::Even {
                        bits: 8,
                        block_size: group,
                    },
                    has_zeros: false,
                    order: None,
                    group,
                })
            }
            (Values::Integers { bits, .. }, _) => self.integers_form(*bits),
            (Values::Float8 { .. }, _) => Err("ONNX Runtime has no product with float8 weights"),
        }
    }

    fn integers_form(&self, bits: usize) -> Result<CodesForm, &'static str> {
        let columns = self.columns();
        let (group, order) = match &self.groups {
            Groups::Size(size) => ((*size).min(columns), None),
            Groups::Listed(groups) => {
                let mut order: Vec<u32> = (0..columns as u32).collect();
                order.sort_by_key(|&column| groups[column as usize]);
                let group = columns / self.group_count();
                let place_fits = |(place, &column): (usize, &u32)| {
                    group > 0 && groups[column as usize] as usize == place / group
                };
                if !order.iter().enumerate().all(place_fits) {
                    return Err("its groups have different sizes");
                }
                (group, Some(order))
            }
        };
        let block_size = if group == columns {
            let longest = columns.next_power_of_two().max(BLOCKS[BLOCKS.len() - 1]);
            longest.min(BLOCK_OF_ROWS)
        } else {
            let mut fitting = BLOCKS.into_iter().filter(|block| group % block == 0);
            fitting
                .next()
                .ok_or("its groups don't consist of blocks of 16 columns")?
        };
        let bits = if bits == 3 { 4 } else { bits };
        if ![2, 4, 8].contains(&bits) {
            return Err("ONNX Runtime has no product with codes of so many bits");
        }
        let all = 0..self.row_count();
        let middle = 1_u8 << (bits - 1);
        let has_zeros = match self.zeros_of(all) {
            Some(zeros) => zeros.iter().any(|&zero| zero != middle),
            // The middle of 3 bits isn't that of 4.
            None => self.bits() != Some(bits),
        };
        Ok(CodesForm {
            encoding: Encoding::Even { bits, block_size },
            has_zeros,
            order,
            group,
        })
    }

    fn bits(&self) -> Option<usize> {
        match self.values {
            Values::Integers { bits, .. } => Some(bits),
            _ => None,
        }
    }

    /// The codes of `form` where they lie, if the checkpoint has them in that layout.
    pub fn codes_in_place(&self, form: &CodesForm) -> Option<ByteSpan> {
        let span = match (&self.codes, form.encoding) {
            (
                Codes::Nibbles {
                    tensor,
                    high_first: true,
                    rows: Selection::ALL,
                },
                Encoding::Table { .. },
            ) => tensor.view().span(),
            (
                Codes::ByRow { tensor, bits },
                Encoding::Even {
                    bits: own,
                    block_size,
                },
            ) if *bits == own
                && form.order.is_none()
                && self.columns().is_multiple_of(block_size) =>
            {
                tensor.view().span()
            }
            _ => return None,
        };
        let [codes, _] = form.encoding.shapes(self.row_count(), self.columns());
        (span.length == codes.iter().product::<usize>() as u64).then_some(span)
    }

    /// The scales of `form` where they lie, if they're float32 in that layout.
    pub fn scales_in_place(&self, form: &CodesForm) -> Option<ByteSpan> {
        let Scales::Flat(absmax) = &self.scales else {
            return None;
        };
        let view = absmax.tensor.view();
        let fits = absmax.nested.is_none() && view.stored == safetensors::Dtype::F32;
        let [_, scales] = form.encoding.shapes(self.row_count(), self.columns());
        (fits && view.elements() == scales[0]).then(|| view.span())
    }

    /// The packed codes of `parts`.
    pub fn packed_codes(&self, form: &CodesForm, parts: &Parts) -> Vec<u8> {
        let columns = self.columns();
        let codes = &parts.codes;
        let Encoding::Even { bits, block_size } = form.encoding else {
            // Two in a byte, the first one in the upper half.
            return codes
                .chunks(2)
                .map(|pair| pair[0] << 4 | pair.get(1).copied().unwrap_or(0))
                .collect();
        };
        let padding = columns.next_multiple_of(block_size) - columns;
        let middle = 1_u8 << (bits - 1);
        let mut out = Vec::new();
        for row in codes.chunks(columns) {
            let mut row = match &form.order {
                Some(order) => Cow::Owned(order.iter().map(|&c| row[c as usize]).collect()),
                None => Cow::Borrowed(row),
            };
            if let Values::Table { values, .. } = &self.values {
                let doubled = |&code: &u8| (2.0 * values[usize::from(code)] + 128.0) as u8;
                row = Cow::Owned(row.iter().map(doubled).collect());
            }
            if padding > 0 {
                row.to_mut().extend(std::iter::repeat_n(middle, padding));
            }
            pack(&row, bits, &mut out);
        }
        out
    }

    /// The scales of `parts`, one a block.
    pub fn block_scales(&self, form: &CodesForm, parts: &Parts) -> Vec<f32> {
        let scales = &parts.scales;
        if matches!(self.scales, Scales::Flat(_)) {
            return scales.clone();
        }
        let halved = matches!(self.values, Values::Table { .. });
        let scale = |at: usize| scales[at] * if halved { 0.5 } else { 1.0 };
        self.each_block(form, scales.len(), scale)
    }

    /// The packed zero points of `parts`.
    pub fn block_zeros(&self, form: &CodesForm, parts: &Parts) -> Vec<u8> {
        let middle = 1_u8 << (self.bits().unwrap_or(form.encoding.bits()) - 1);
        let count = parts.scales.len();
        let zero = |at: usize| parts.zeros.as_ref().map_or(middle, |zeros| zeros[at]);
        let of_blocks = self.each_block(form, count, zero);
        let blocks = self.columns().div_ceil(form.encoding.block_size());
        let mut out = Vec::new();
        for row in of_blocks.chunks(blocks) {
            pack(row, form.encoding.bits(), &mut out);
        }
        out
    }

    /// Repeats the values of groups, `[rows, groups]`, for their blocks.
    fn each_block<T>(&self, form: &CodesForm, count: usize, value: impl Fn(usize) -> T) -> Vec<T> {
        let groups = self.group_count();
        let block = form.encoding.block_size();
        let blocks = self.columns().div_ceil(block);
        let rows = count / groups;
        (0..rows * blocks)
            .map(|index| {
                let group = index % blocks * block / form.group;
                value(index / blocks * groups + group)
            })
            .collect()
    }

    /// Bytes of codes, scales and zero points in `form`, with scales in `scales_type`.
    pub fn bytes(&self, form: &CodesForm, scales_type: Dtype) -> u64 {
        let (rows, columns) = (self.row_count(), self.columns());
        let zeros = match form.has_zeros {
            true => form.encoding.zeros_shape(rows, columns).iter().product(),
            false => 0,
        };
        form.encoding.bytes(rows, columns, scales_type) + zeros as u64
    }
}

/// The type of bitsandbytes with these values.
fn known_table(values: &[f32]) -> Option<&'static Table> {
    let alike = |table: &&Table| {
        let mut pairs = table.values.iter().zip(values);
        pairs.all(|(own, value)| (own - value).abs() <= 1e-6)
    };
    [&NF4, &FP4].into_iter().find(alike)
}

/// How a graph computes products with a quantized base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseCodes {
    /// Which weights keep their codes.
    pub kept: KeptBase,
    /// The arithmetic of `MatMulNBits`.
    pub accuracy: Accuracy,
    /// Whether merged weights are rounded to the checkpoint's scheme again.
    pub requantize: bool,
}

impl Default for BaseCodes {
    fn default() -> Self {
        Self {
            kept: KeptBase::Exact,
            accuracy: Accuracy::Float32,
            requantize: false,
        }
    }
}
