//! What this process may use of the machine: its cores and its accelerators.

pub mod cores;
pub mod nvml;

pub use cores::{allowed_cores, physical_cores, usable_cores};
