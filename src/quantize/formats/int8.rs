//! `8bit`: blocks of a row, rounded to 256 evenly spaced values.
//!
//! A block's scale is the value of the largest magnitude divided by −128.
//!
//! Sources: onnxruntime, `ContribOperators.md` and `core/mlas/lib/q4_dq.cpp`.

use super::FormatSpec;
use super::steps::{self, BLOCK};

/// The entry of [`Format`](super::Format).
pub(super) const FORMAT: FormatSpec =
    steps::format(8, BLOCK, "8bit", "Blocks of 32 values rounded to 8 bits");

/// The same with blocks of another size.
pub(super) const fn blocks(size: usize, name: &'static str) -> FormatSpec {
    steps::format(8, size, name, "Blocks of another size rounded to 8 bits")
}
