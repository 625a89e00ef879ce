//! `8bit`: blocks of a row, rounded to 256 evenly spaced values.
//!
//! A block's scale is the value of the largest magnitude divided by −128.
//!
//! Sources: onnxruntime, `ContribOperators.md` and `core/mlas/lib/q4_dq.cpp`.

use super::{FormatSpec, steps};

/// Blocks of `size` values.
pub(super) const fn blocks(size: usize, name: &'static str) -> FormatSpec {
    steps::format(8, size, name, "Blocks of 128 values rounded to 8 bits")
}
