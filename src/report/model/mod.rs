//! A result as it's kept in its file: written, and read back.
//!
//! The types have the file's keys as their fields, in the file's order. They are apart from the
//! records of a measurement, so that a record can change without changing files that others read.
//!
//! A key that later versions added is a [`Maybe`] where it may be null, and an `Option` that's left
//! out where it may not. So a file of an earlier version is written as it was read.

mod compared;
mod generation_info;
mod maybe;
mod memory;
mod meta_info;
mod metrics;
mod ordered;
mod run_info;
mod serving;
mod variant;

use serde::{Deserialize, Serialize};

pub use compared::{
    BaseAgainstItself, Norm, Overhead, OverheadPct, Parity, ParityOnLongest, Swap, SwapMetrics,
};
pub use generation_info::{GenerationInfo, SweepEntry, SweepVariant};
pub use maybe::Maybe;
pub use memory::{Arena, Memory, Stage};
pub use meta_info::{
    AdapterInfo, AdapterWeights, BaseQuantizationInfo, BaseWeights, MetaInfo, ModelSize,
    PackageInfo, Parameters, QuantizationInfo,
};
pub use metrics::{Category, Metrics, Run, Sample};
pub use ordered::Ordered;
pub use run_info::{BaseSource, RunInfo, Session, Status, Tokenizer, TokenizerOwner};
pub use serving::{
    ColdStarts, ColdStartsFrom, Mixed, MixedBatch, MixedMemory, MixedTokens, Outcome, Over,
    PaysFrom, RefusedForm, Reuse, Serving, SharedPrefix, SharedPrefixLength, SharedPrefixTokens,
};
pub use variant::{Entry, Variant};

/// The version of the schema that this program writes. It goes up when a key changes its meaning,
/// its type or its place, and not when one is added.
pub const SCHEMA_VERSION: u32 = 1;

/// A result: one target, measured against its base.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA_VERSION`] of the program that wrote it; 0 in files from before there was such a
    /// key.
    #[serde(default)]
    pub schema_version: u32,
    /// How it was measured.
    pub run_info: RunInfo,
    /// What was measured.
    pub generation_info: GenerationInfo,
    /// What it was measured on.
    pub meta_info: MetaInfo,
}
