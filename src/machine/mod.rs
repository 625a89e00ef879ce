//! The cores and accelerators that this process may use, and what else keeps them busy.

pub mod cores;
pub mod nvml;
pub mod pressure;
pub mod processes;

pub use cores::{allowed_cores, physical_cores, usable_cores};
