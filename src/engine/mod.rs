//! Runs a prepared variant on ONNX Runtime: prefill, then decode steps of one token, over a cache
//! that's updated in place.

mod adapter;
mod allocator;
mod beside;
mod bound_session;
mod cache;
mod cuda;
mod error;
mod foreign;
mod gathered;
mod generation;
mod heap;
mod interface;
mod kept_prefix;
mod length_inputs;
pub mod logits;
mod open;
mod options;
mod rows;
mod runner;
mod session;
mod sessions;
mod shared_weights;
mod stacked;
mod states;
mod swap;
mod tensors;

use std::collections::BTreeSet;
use std::rc::Rc;

use ort::memory::Allocator;
use ort::value::{DynTensor, Tensor};

pub use adapter::ResidentAdapter;
pub use allocator::ArenaBytes;
pub use cuda::StepGraph;
pub use error::EngineError;
pub use foreign::ForeignEngine;
pub use interface::{Engine, SwapEngine};
pub use kept_prefix::KeptPrefix;
pub use open::LaidOut;
pub use options::{EngineOptions, TF32};
pub use rows::{RowEngine, Rows};
pub use runner::Runner;
pub use session::block_size;

pub use crate::lowering::{NotLowered, WeightsMode};
pub use crate::onnxruntime::{OnnxRuntime, Provider};

use crate::onnxruntime::cuda::Stream;
use crate::weights::{Dtype, widen};
use cache::CachedTensor;
use cuda::CapturedSteps;
use sessions::Sessions;
use shared_weights::SharedWeights;
use states::States;
use tensors::bytes_of;

/// An open variant: its sessions, cache and bound tensors.
///
/// Fields are dropped in order: sessions must outlive the tensors that they allocated.
#[derive(Debug)]
pub struct DecoderEngine {
    /// Keys and values of every layer, bound as `past` and as `present`.
    cache: Vec<CachedTensor>,
    states: States,
    logits: DynTensor,
    next_token: Tensor<i64>,
    adapter: Rc<ResidentAdapter>,
    /// The sessions' arenas, for their statistics.
    arenas: Vec<Allocator>,
    /// Decode steps recorded as a CUDA graph.
    captured: Option<CapturedSteps>,
    step_graph: Option<StepGraph>,
    sessions: Sessions,
    /// The stream that the sessions run on, if decode steps are a CUDA graph.
    stream: Option<Stream>,
    /// Laid-out weights, shared by the sessions, and by engines beside this one.
    weights: Option<Rc<SharedWeights>>,
    name: String,
    compute: Dtype,
    vocab_size: usize,
    /// Number of cache rows that a trained prefix fills.
    prefix: usize,
    virtual_tokens: usize,
    /// The length beyond which all keys of a sequence are computed differently.
    keys_change_beyond: Option<usize>,
    /// The tokens so far, if they may have to be run again.
    history: Vec<u32>,
    /// Number of cache rows in use.
    length: usize,
    max_length: usize,
    batch_size: usize,
    logits_on_host: bool,
    /// Inputs of layers that run on the host.
    on_host: BTreeSet<String>,
    not_lowered: Vec<NotLowered>,
}

impl DecoderEngine {
    /// The last step's logits of the first sequence, `[vocab_size]`.
    ///
    /// # Panics
    /// If the engine was opened without `logits_on_host`.
    pub fn logits(&self) -> Vec<f32> {
        self.logits_of_row(0)
    }

    /// The last step's logits of the sequence with this number, `[vocab_size]`.
    ///
    /// # Panics
    /// If the engine was opened without `logits_on_host`, or has no such sequence.
    pub fn logits_of_row(&self, row: usize) -> Vec<f32> {
        assert!(self.logits_on_host, "logits are on the device");
        assert!(row < self.batch_size, "there are fewer sequences");
        let size = self.vocab_size * self.compute.size();
        let all = bytes_of(&self.logits, (row + 1) * size);
        widen(&all[row * size..], self.compute)
    }

    /// The last token of every sequence of the batch.
    pub fn next_tokens(&self) -> &[i64] {
        self.next_token.extract_tensor().1
    }

    /// The nodes with a role that couldn't be lowered.
    pub fn not_lowered(&self) -> &[NotLowered] {
        &self.not_lowered
    }

    /// How decode steps are started; `None` unless a CUDA graph was asked for.
    pub fn step_graph(&self) -> Option<&StepGraph> {
        self.step_graph.as_ref()
    }

    /// Statistics of the sessions' arenas, added up; they're GPU memory if the sessions run there.
    /// `None` if an arena has no statistics.
    pub fn arena_bytes(&self) -> Option<ArenaBytes> {
        let found: Option<Vec<ArenaBytes>> =
            self.arenas.iter().map(allocator::arena_bytes).collect();
        found?.into_iter().reduce(ArenaBytes::plus)
    }
}
