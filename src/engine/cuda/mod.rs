//! Decode steps on a GPU, replayed from a CUDA graph.
//!
//! A step launches some hundred kernels. For a small model, launching one takes the host longer
//! than running it takes the GPU. ONNX Runtime can record the kernels as a CUDA graph and launch
//! that at once. Between steps, only the contents of memory may then change. So all tensors are
//! bound once, at fixed addresses: token ids and lengths are copied there before a step, and the
//! next token is copied back after it. The length that's passed on the host is the cache's whole
//! length in every step; attention reads the real one from the GPU's memory.
//!
//! Source: ONNX Runtime's documentation of its CUDA provider, "Using CUDA Graphs".

mod capture;
mod captured_steps;
mod transfer;

pub use capture::open_captured;
pub use captured_steps::{CapturedSteps, GraphRun, check_capturable};
pub use transfer::write;

use serde::{Deserialize, Serialize};

/// How decode steps on a GPU are started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepGraph {
    /// As a CUDA graph.
    Captured,
    /// Kernel by kernel, although a CUDA graph was asked for; the reason.
    Refused(String),
}
