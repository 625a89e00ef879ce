//! Memory of a variant. `_mb` is 2^20 bytes, as in PEFT's suite.

use serde::{Deserialize, Serialize};

use super::Maybe;
use crate::measure::gpu::GpuMemoryMethod;
use crate::measure::memory::PeakMethod;

/// Memory of a variant's process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// The most on the accelerator while generating.
    pub peak_accelerator_memory_mb: Option<f64>,
    /// The largest resident set while generating, mapped weights included.
    pub peak_ram_memory_mb: f64,
    /// The most without pages of files while generating.
    pub peak_anonymous_memory_mb: Option<f64>,
    /// Each stage.
    pub memory_logs: Vec<Stage>,
}

/// Memory at the end of a stage, and its peaks during it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// `start`, `session_loaded`, `warmed_up`, a category, `benchmark_complete`.
    pub stage: String,
    /// Resident at its end.
    pub ram_mb: f64,
    /// Handed out by ONNX Runtime's allocator on the accelerator at its end.
    pub accelerator_allocated_mb: Option<f64>,
    /// Held on the accelerator at its end.
    pub accelerator_reserved_mb: Option<f64>,
    /// ONNX Runtime's arenas at its end.
    #[serde(default, skip_serializing_if = "Maybe::is_absent")]
    pub arena: Maybe<Arena>,
    /// The process' own at its end.
    pub anonymous_mb: Option<f64>,
    /// Pages of files at its end.
    pub file_backed_mb: Option<f64>,
    /// The largest resident set during it.
    pub peak_ram_mb: f64,
    /// How `peak_ram_mb` was found.
    pub peak_ram_method: PeakMethod,
    /// The process' own at most during it.
    pub peak_anonymous_mb: Option<f64>,
    /// How often the process waited during it for a page to be read from a disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_waits: Option<u64>,
    /// Held on the accelerator at most during it.
    pub peak_accelerator_mb: Option<f64>,
    /// How the accelerator's figures were found.
    pub accelerator_method: Option<GpuMemoryMethod>,
}

/// What ONNX Runtime's arenas hold.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Arena {
    /// Handed out and not given back.
    pub in_use_mb: f64,
    /// The most that ever was.
    pub max_in_use_mb: f64,
    /// Taken from the system or the device.
    pub reserved_mb: f64,
}

impl Memory {
    /// The stage of that name.
    pub fn stage(&self, name: &str) -> Option<&Stage> {
        self.memory_logs.iter().find(|stage| stage.stage == name)
    }
}

impl Stage {
    /// The peak where the model is: on the accelerator, if there is one.
    pub fn peak_mb(&self) -> f64 {
        self.peak_accelerator_mb.unwrap_or(self.peak_ram_mb)
    }
}
