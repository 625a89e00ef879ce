//! Measuring.
pub mod gpu;
pub mod memory;
pub(crate) mod random;
pub mod schedule;
pub mod stats;
pub mod timings;
