//! `run_info`: how it was measured.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Maybe;
use crate::engine::WeightsMode;
use crate::measure::energy::EnergyMethod;
use crate::measure::interference::Interference;
use crate::measure::quiet::GateOutcome;
use crate::measure::rounds::RoundLooks;
use crate::measure::session::ReachedPrecision;
use crate::system::{Environment, Hardware};

/// How it was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// When it began: RFC 3339, UTC.
    pub timestamp: String,
    /// How long it took, in seconds.
    pub duration: f64,
    /// How it ended.
    pub status: Status,
    /// The accelerators.
    pub hardware: Hardware,
    /// Why it didn't succeed.
    pub error: Option<String>,
    /// The adapter's `adapter_config.json`.
    pub peft_config: Option<Value>,
    /// The resolved parameters, in a form that `--config` takes.
    pub benchmark_config: Value,
    /// The settings that the hash in the result's name stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Map<String, Value>>,
    /// The tokenizer of the prompts.
    #[serde(default, skip_serializing_if = "Maybe::is_absent")]
    pub tokenizer: Maybe<Tokenizer>,
    /// How sessions were opened.
    pub session: Session,
    /// The precision that was asked for, and what came of it.
    #[serde(default, skip_serializing_if = "Maybe::is_absent")]
    pub target_precision: Maybe<ReachedPrecision>,
    /// What else kept the cores busy.
    #[serde(default, skip_serializing_if = "Maybe::is_absent")]
    pub interference: Maybe<Interference>,
    /// Whether others stayed quiet from round to round; null where it was too short to tell.
    #[serde(default, skip_serializing_if = "Maybe::is_absent")]
    pub rounds: Maybe<RoundLooks>,
    /// What came of waiting for a quiet machine; null where it wasn't asked for.
    #[serde(default, skip_serializing_if = "Maybe::is_absent")]
    pub quiet_gate: Maybe<GateOutcome>,
    /// The state of the machine that times depend on; null where nothing was measured.
    #[serde(default, skip_serializing_if = "Maybe::is_absent")]
    pub environment: Maybe<Environment>,
    /// Where energy was read.
    #[serde(default, skip_serializing_if = "Maybe::is_absent")]
    pub energy_method: Maybe<EnergyMethod>,
    /// Whether the program was asked to end once everything was measured, so that intervals are of
    /// a tenth of the draws; absent if not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fewer_draws: Option<bool>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Everything that was asked for was measured.
    Success,
    /// Something wasn't.
    Failed,
    /// It was interrupted.
    Cancelled,
}

/// The tokenizer of the prompts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokenizer {
    /// Whose it is.
    pub of: TokenizerOwner,
    /// Its folder.
    pub path: PathBuf,
}

/// Whose a tokenizer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenizerOwner {
    /// The base model's.
    Base,
    /// The adapter's, which was saved with one.
    Adapter,
    /// Another, that was asked for.
    Other,
}

/// How sessions were opened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// `cpu`, or `cuda:` and the device's number.
    pub provider: String,
    /// Threads of the CPU provider.
    pub threads: usize,
    /// Sequences that are generated at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<usize>,
    /// Layers on the GPU, the first ones, where the others were computed on the CPU; absent where
    /// all were on the GPU or all on the CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_layers: Option<usize>,
    /// Whether decode steps on a GPU were to be CUDA graphs; null on a CPU.
    #[serde(default, skip_serializing_if = "Maybe::is_absent")]
    pub cuda_graph: Maybe<bool>,
    /// Whether products on a GPU may be rounded to TF32; null on a CPU.
    #[serde(default, skip_serializing_if = "Maybe::is_absent")]
    pub tf32: Maybe<bool>,
    /// The cores that the program may run on; null where the system doesn't tell.
    #[serde(default, skip_serializing_if = "Maybe::is_absent")]
    pub allowed_cores: Maybe<Vec<u32>>,
    /// How weights are held in memory.
    pub weights: WeightsMode,
    /// Where the base's figures come from.
    pub base: BaseSource,
}

/// Where the base's figures come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BaseSource {
    /// It was measured in turn with the other variants.
    Interleaved,
    /// From an earlier measurement.
    Cached,
}
