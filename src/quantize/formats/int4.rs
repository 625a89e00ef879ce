//! `4bit`: blocks of 32 values of a row, rounded to 16 evenly spaced values.
//!
//! A block's scale is the value of the largest magnitude divided by −8.
//!
//! Sources: onnxruntime, `ContribOperators.md` and `core/mlas/lib/q4_dq.cpp`.

use super::steps::{self, BLOCK};
use super::{FormatSpec, Keys, Switch, Tolerance};
use crate::quantize::encoding::Encoding;

/// The entry of [`Format`](super::Format).
pub(super) const FORMAT: FormatSpec = FormatSpec {
    name: "4bit",
    about: "Blocks of 32 values rounded to 4 bits",
    keys: Keys {
        switch: Some(Switch::Use4Bit),
        scheme: "rtn",
    },
    encoding: Encoding::Even {
        bits: 4,
        block_size: BLOCK,
    },
    quantize: |values, columns| steps::round(values, columns, 4),
    // As in onnxruntime-genai, since a step reads more of the head than of any other weight.
    quantizes_head: true,
    has_row_lookup: true,
    tolerance: Tolerance {
        dense: 7.5e-1,
        routed: 1.0,
    },
};
