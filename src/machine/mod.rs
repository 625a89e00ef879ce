//! The cores, memory and accelerators that this process may use, what else keeps them busy, and how
//! processes end.

pub mod cgroup;
pub mod cores;
pub mod ended_by;
pub mod nvml;
pub mod pressure;
pub mod processes;

pub use cores::{allowed_cores, physical_cores, usable_cores};
