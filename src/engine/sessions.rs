//! The sessions of a variant, and the choice of the session for a number of tokens.

use std::sync::Arc;

use super::bound_session::BoundSession;
use super::heap::give_back_freed;
use super::session::open_session;
use super::shared_weights::SharedWeights;
use super::{EngineError, EngineOptions, OnnxRuntime, Provider};
use crate::graph::proto::Model;
use crate::lowering::experts::quantized::has_stacked_at_start;
use crate::lowering::{CHUNK, LoweredGraphs};
use crate::onnxruntime::cuda::Stream;

/// One session, or two over the same weights.
#[derive(Debug)]
pub struct Sessions {
    prompt: Option<BoundSession>,
    pub step: BoundSession,
    /// Number of tokens from which on `prompt` isn't used.
    prompt_end: usize,
    /// The largest number of prompt tokens in one run.
    chunk: usize,
}

impl Sessions {
    /// Opens a session on each graph, which share `weights`; `name` is the variant's, for errors.
    /// `whole`: a prompt must be a single run. With a `stream`, the sessions run on it and can
    /// record CUDA graphs.
    pub fn open(
        runtime: &OnnxRuntime,
        name: &str,
        lowered: &LoweredGraphs,
        options: &EngineOptions,
        whole: bool,
        weights: Option<&SharedWeights>,
        stream: Option<&Stream>,
    ) -> Result<Self, EngineError> {
        let open = |model: &Model, kind: &str, packs: bool| {
            let options = options.for_session(kind);
            let session = open_session(runtime, name, model, &options, packs, weights, stream)?;
            let captures = stream.is_some();
            BoundSession::new(Arc::new(session), &options, captures)
                .map_err(EngineError::runtime(name))
        };
        // In parallel, since opening a session is single-threaded.
        let (prompt, step) = rayon::join(
            || {
                let prompt = lowered.prompt.as_ref();
                prompt.map(|model| open(model, "prompt", false)).transpose()
            },
            || open(&lowered.step, "step", lowered.packs_step),
        );
        if lowered.models().any(has_stacked_at_start) {
            give_back_freed();
        }
        Ok(Self {
            prompt: prompt?,
            prompt_end: lowered.prompt_end,
            step: step?,
            // ONNX Runtime's attention supports a prompt after a filled cache for one sequence
            // only; and on a GPU more rows are always faster.
            chunk: match (options.provider, options.batch_size) {
                (Provider::Cpu, 1) if !whole => CHUNK,
                _ => usize::MAX,
            },
        })
    }

    /// The same sessions with bindings of their own, for as many sequences.
    pub fn again(&self, options: &EngineOptions) -> ort::Result<Self> {
        let prompt = self.prompt.as_ref().map(|prompt| prompt.again(options));
        Ok(Self {
            prompt: prompt.transpose()?,
            step: self.step.again(options)?,
            ..*self
        })
    }

    /// All sessions.
    pub fn iter(&self) -> impl Iterator<Item = &BoundSession> {
        self.prompt.iter().chain([&self.step])
    }

    /// All sessions, mutable.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut BoundSession> {
        let Self { prompt, step, .. } = self;
        prompt.iter_mut().chain([step])
    }

    /// The session that runs this number of tokens.
    pub fn for_tokens(&mut self, tokens: usize) -> &mut BoundSession {
        match &mut self.prompt {
            Some(prompt) if (2..self.prompt_end).contains(&tokens) => prompt,
            _ => &mut self.step,
        }
    }

    /// Number of tokens in the next run, of the `left` tokens of a prompt.
    pub fn next_chunk(&self, left: usize) -> usize {
        left.min(self.chunk)
    }
}
