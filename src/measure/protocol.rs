//! What the parent and a worker say to each other: a line of JSON each, on the worker's stdin and stdout.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::executed::ExecutedGraph;
use super::memory::StageMemory;
use super::swap::SwapTimes;
use super::timings::GenerationTimings;
use crate::engine::{EngineOptions, NotLowered, StepGraph};
use crate::onnxruntime::library::Library;
use crate::parity::Parity;
use crate::prepared::{PreparedVariant, Variant};

/// What the parent asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Load ONNX Runtime and open a session.
    Open(Box<OpenRequest>),
    /// Generate greedily.
    Generate {
        /// Token ids of the prompt.
        prompt_ids: Vec<u32>,
        /// Tokens to generate.
        new_tokens: usize,
    },
    /// End a stage of memory sampling.
    Stage(String),
    /// Compare variants with each other, in a worker that measures nothing.
    Parity(Box<ParityRequest>),
    /// Let adapters take turns, in a worker that measures nothing else.
    Swap(Box<SwapRequest>),
}

/// How to let adapters take turns.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SwapRequest {
    /// The session, with its own adapter as the first.
    pub open: OpenRequest,
    /// The other adapters.
    pub others: Vec<PreparedVariant>,
    /// Token ids of the prompt.
    pub prompt_ids: Vec<u32>,
    /// How often each takes its turn.
    pub rounds: usize,
}

/// How to compare variants.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ParityRequest {
    /// ONNX Runtime.
    pub library: Library,
    /// The variants.
    pub variants: Vec<PreparedVariant>,
    /// How to open them.
    pub options: EngineOptions,
    /// Token ids of the prompt.
    pub prompt_ids: Vec<u32>,
    /// Tokens to compare.
    pub new_tokens: usize,
}

/// How to open a session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OpenRequest {
    /// ONNX Runtime.
    pub library: Library,
    /// The variant.
    pub variant: PreparedVariant,
    /// How to open it.
    pub options: EngineOptions,
}

/// What a worker answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// The session is open.
    Opened(Opened),
    /// The tokens, and how long they took.
    Generated {
        /// Greedy tokens, as many as asked for.
        token_ids: Vec<u32>,
        /// How long they took.
        timings: GenerationTimings,
    },
    /// The stage's memory.
    Stage(StageMemory),
    /// What the variants compute.
    Compared(ParityCheck),
    /// What swaps took.
    Swapped(SwapTimes),
    /// It failed; the worker ends.
    Failed(String),
}

/// What variants compute, and what ran for it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ParityCheck {
    /// Whether they agree; absent where there are none.
    pub parity: Option<Parity>,
    /// The nodes that ran in each session of a variant, as far as ONNX Runtime tells them.
    pub graphs: BTreeMap<Variant, BTreeMap<String, ExecutedGraph>>,
    /// What of a variant runs as prepared though another form is quicker.
    #[serde(default)]
    pub not_lowered: BTreeMap<Variant, Vec<NotLowered>>,
}

/// A session that was opened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    /// From the loaded library to the session with its cache, in seconds.
    pub session_seconds: f64,
    /// How decode steps are started, where a CUDA graph was asked for.
    #[serde(default)]
    pub step_graph: Option<StepGraph>,
    /// Memory before anything was loaded, and with the session open.
    pub stages: Vec<StageMemory>,
}
