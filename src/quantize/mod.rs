//! Weights of few bits: how they are quantized, and the file that they're kept in.

mod format;

pub use format::{Format, Quantized};
