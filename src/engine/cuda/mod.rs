//! Decode steps on a GPU, replayed from a CUDA graph.
//!
//! A step starts some hundred kernels, each of which takes the host longer to start than a small model's takes to run. ONNX
//! Runtime can record them as a CUDA graph and start that: then nothing may change from step to step but what's in
//! memory. So everything is bound once, in memory that stays where it is: token ids and lengths are copied there before a
//! step, the next token from there after it. The number of rows that's known on the host is the cache's whole length in every
//! step; attention takes the real one from the GPU's memory.
//!
//! Source: ONNX Runtime's documentation of its CUDA provider, "Using CUDA Graphs".

mod capture;
mod steps;
mod transfer;

pub use capture::open_captured;
pub use steps::{CapturedSteps, GraphRun, check_capturable};
pub use transfer::write;

use serde::{Deserialize, Serialize};

/// How decode steps on a GPU are started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepGraph {
    /// As a CUDA graph.
    Captured,
    /// Kernel by kernel, though a CUDA graph was asked for, and why.
    Refused(String),
}
