//! Runs a prepared variant on ONNX Runtime: prefill, then one token a step, over a cache that's updated
//! in place.

mod adapter;
mod allocator;
mod bindings;
mod bound;
mod cache;
mod cuda;
mod error;
mod generation;
mod heap;
mod interface;

mod lengths;
pub mod logits;

mod open;
mod options;
mod session;
mod sessions;
mod shared_weights;
mod swap;

use std::rc::Rc;

use ort::memory::Allocator;
use ort::value::{DynTensor, Tensor};

pub use adapter::ResidentAdapter;
pub use allocator::ArenaBytes;
pub use cuda::StepGraph;
pub use error::EngineError;
pub use interface::{Engine, SwapEngine};
pub use open::MadeReady;
pub use options::{EngineOptions, TF32};
pub use session::block_size;

pub use crate::lowering::{NotLowered, WeightsMode};
pub use crate::onnxruntime::{OnnxRuntime, Provider};

use crate::onnxruntime::cuda::Stream;
use crate::weights::{Dtype, widen};
use bindings::bytes_of;
use cuda::CapturedSteps;
use sessions::Sessions;
use shared_weights::SharedWeights;

/// Sessions with their cache and bound tensors.
///
/// Fields are dropped in order: sessions after the tensors that they allocated.
#[derive(Debug)]
pub struct DecoderEngine {
    /// Keys and values of every layer, bound as `past` and as `present`.
    _cache: Vec<DynTensor>,
    logits: DynTensor,
    next_token: Tensor<i64>,
    adapter: Rc<ResidentAdapter>,
    /// The sessions' arenas, of which only statistics are wanted.
    arenas: Vec<Allocator>,
    /// Decode steps as a CUDA graph.
    captured: Option<CapturedSteps>,
    step_graph: Option<StepGraph>,
    sessions: Sessions,
    /// That the sessions run on, if decode steps are a CUDA graph.
    stream: Option<Stream>,
    /// Laid-out weights, which the sessions share.
    _weights: Option<SharedWeights>,
    name: String,
    compute: Dtype,
    vocab_size: usize,
    /// Rows of the cache that a generation starts with.
    prefix: usize,
    virtual_tokens: usize,
    /// Rows of the cache in use.
    length: usize,
    max_length: usize,
    batch_size: usize,
    logits_on_host: bool,
    not_lowered: Vec<NotLowered>,
}

impl DecoderEngine {
    /// The logits that the last token was picked from, `[vocab_size]`, of the batch's first sequence.
    ///
    /// # Panics
    /// If the engine was opened without `logits_on_host`.
    pub fn logits(&self) -> Vec<f32> {
        assert!(self.logits_on_host, "logits are on the device");
        let count = self.vocab_size;
        widen(
            bytes_of(&self.logits, count * self.compute.size()),
            self.compute,
        )
    }

    /// The last token of every sequence of the batch.
    pub fn next_tokens(&self) -> &[i64] {
        self.next_token.extract_tensor().1
    }

    /// What runs as prepared though another form is quicker.
    pub fn not_lowered(&self) -> &[NotLowered] {
        &self.not_lowered
    }

    /// How decode steps are started, where a CUDA graph was asked for.
    pub fn step_graph(&self) -> Option<&StepGraph> {
        self.step_graph.as_ref()
    }

    /// What the arenas of ONNX Runtime's sessions hold together, on the GPU where they run there; `None` where they keep
    /// no statistics.
    pub fn arena_bytes(&self) -> Option<ArenaBytes> {
        let found: Option<Vec<ArenaBytes>> =
            self.arenas.iter().map(allocator::arena_bytes).collect();
        found?.into_iter().reduce(ArenaBytes::plus)
    }
}
