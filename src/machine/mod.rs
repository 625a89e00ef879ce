//! The cores and accelerators that this process may use.

pub mod cores;
pub mod nvml;

pub use cores::{allowed_cores, physical_cores, usable_cores};
