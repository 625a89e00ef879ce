//! The messages between the parent and a worker: one line of JSON each, on the worker's stdin and
//! stdout.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::executed::ExecutedGraph;
use super::memory::StageMemory;
use super::prompt_group::PromptGroup;
use super::serving::{Served, ServingRequest};
use super::swap::SwapTimes;
use super::timings::GenerationTimings;
use crate::engine::{EngineOptions, NotLowered, StepGraph};
use crate::onnxruntime::library::Library;
use crate::parity::{Parity, Picks};
use crate::prepared::{PreparedVariant, Variant};

/// A request of the parent.
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
    /// End the present memory stage and name it.
    Stage(String),
    /// Compare variants with each other. Such a worker measures nothing.
    Parity(Box<ParityRequest>),
    /// Bind adapters in turn and time it. Such a worker measures nothing else.
    Swap(Box<SwapRequest>),
    /// Measure something of serving. Such a worker measures nothing else.
    Serve(Box<ServingRequest>),
}

/// A request to time adapter swaps.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SwapRequest {
    /// The session; its variant's adapter is the first of the adapters.
    pub open: OpenRequest,
    /// The other adapters.
    pub others: Vec<PreparedVariant>,
    /// Token ids of the prompt.
    pub prompt_ids: Vec<u32>,
    /// How often each adapter is bound.
    pub rounds: usize,
}

/// A request to compare variants.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ParityRequest {
    /// ONNX Runtime.
    pub library: Library,
    /// The variants.
    pub variants: Vec<PreparedVariant>,
    /// How to open them.
    pub options: EngineOptions,
    /// The prompts, the shortest first and the longest last.
    pub prompts: Vec<ParityPrompt>,
    /// What the first variant is called, if the second is compared with it as another export.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

/// A prompt on which variants are compared.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ParityPrompt {
    /// The group that it belongs to.
    pub group: PromptGroup,
    /// Its number within its group.
    pub index: usize,
    /// Its token ids, which the adapter's invocation tokens may follow.
    pub ids: Vec<u32>,
    /// Whether it's timed with just these ids.
    pub is_timed: bool,
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

/// An answer of the worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// The session is open.
    Opened(Opened),
    /// The tokens and their timings.
    Generated {
        /// The greedy tokens.
        token_ids: Vec<u32>,
        /// Their timings.
        timings: GenerationTimings,
    },
    /// Memory of the stage that ended.
    Stage(StageMemory),
    /// The result of the comparison.
    Compared(ParityCheck),
    /// The times of the swaps.
    Swapped(SwapTimes),
    /// What was measured of serving.
    Served(Box<Served>),
    /// The request failed with this message; the worker ends.
    Failed(String),
}

/// What the parity check's worker found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ParityCheck {
    /// Whether the variants agree; `None` if there are none.
    pub parity: Option<Parity>,
    /// The nodes that ran in each session of a variant, from ONNX Runtime's profiles; empty without
    /// a profile.
    pub graphs: BTreeMap<Variant, BTreeMap<String, ExecutedGraph>>,
    /// The nodes of each variant that could not be lowered to a faster form.
    #[serde(default)]
    pub not_lowered: BTreeMap<Variant, Vec<NotLowered>>,
    /// What the variants may pick on those prompts that are timed as they were checked.
    #[serde(default)]
    pub picks: Vec<PromptPicks>,
}

/// What the variants may pick on a prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PromptPicks {
    /// The group that the prompt belongs to.
    pub group: PromptGroup,
    /// Its number within its group.
    pub index: usize,
    /// By variant.
    pub picks: BTreeMap<Variant, Picks>,
}

/// The answer to [`Request::Open`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    /// Seconds to open the session and allocate its cache, once the library is loaded.
    pub session_seconds: f64,
    /// How decode steps are started; `None` unless a CUDA graph was asked for.
    #[serde(default)]
    pub step_graph: Option<StepGraph>,
    /// Memory before anything was loaded, and with the session open.
    pub stages: Vec<StageMemory>,
}
