//! `8bit`: blocks of 32 values of a row, rounded to 256 evenly spaced values.
//!
//! A block's scale is the value of the largest magnitude divided by −128.
//!
//! Sources: onnxruntime, `ContribOperators.md` and `core/mlas/lib/q4_dq.cpp`.

use super::steps::{self, BLOCK};
use super::{FormatSpec, Keys, Switch, Tolerance};
use crate::quantize::encoding::Encoding;

/// The entry of [`Format`](super::Format).
pub(super) const FORMAT: FormatSpec = FormatSpec {
    name: "8bit",
    about: "Blocks of 32 values rounded to 8 bits",
    keys: Keys {
        switch: Some(Switch::Use8Bit),
        scheme: "rtn",
    },
    encoding: Encoding::Even {
        bits: 8,
        block_size: BLOCK,
    },
    quantize: |values, columns| steps::round(values, columns, 8),
    // As in onnxruntime-genai, since a step reads more of the head than of any other weight.
    quantizes_head: true,
    has_row_lookup: true,
    tolerance: Tolerance {
        dense: 1e-1,
        routed: 3e-1,
    },
};
