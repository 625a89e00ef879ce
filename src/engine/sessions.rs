//! The sessions of a variant, and which of them runs how many tokens.

use super::bound::BoundSession;
use super::heap::give_back_freed;
use super::session::open_session;
use super::shared_weights::SharedWeights;
use super::{EngineError, EngineOptions, OnnxRuntime, Provider};
use crate::graph::proto::Model;
use crate::lowering::experts::quantized::has_stacked_at_start;
use crate::lowering::{CHUNK, Layouts};
use crate::onnxruntime::cuda::Stream;

/// One session, or two over the same weights.
#[derive(Debug)]
pub struct Sessions {
    prompt: Option<BoundSession>,
    pub step: BoundSession,
    /// Tokens from which on `prompt` isn't used.
    prompt_end: usize,
    /// Tokens that go through a session at once.
    chunk: usize,
}

impl Sessions {
    /// Opens a session on each graph, with `weights` that are in memory already; `name` is the variant's. `whole`: a
    /// prompt must go through at once. Given a `stream`, they run on that and may record CUDA graphs.
    pub fn open(
        runtime: &OnnxRuntime,
        name: &str,
        layouts: &Layouts,
        options: &EngineOptions,
        whole: bool,
        weights: Option<&SharedWeights>,
        stream: Option<&Stream>,
    ) -> Result<Self, EngineError> {
        let open = |model: &Model, kind: &str, packs: bool| {
            let options = options.for_session(kind);
            let session = open_session(runtime, name, model, &options, packs, weights, stream)?;
            let captures = stream.is_some();
            BoundSession::new(session, &options, captures).map_err(EngineError::runtime(name))
        };
        // Opening a session keeps one core busy.
        let (prompt, step) = rayon::join(
            || {
                let prompt = layouts.prompt.as_ref();
                prompt.map(|model| open(model, "prompt", false)).transpose()
            },
            || open(&layouts.step, "step", layouts.packs_step),
        );
        if layouts.models().any(has_stacked_at_start) {
            give_back_freed();
        }
        Ok(Self {
            prompt: prompt?,
            prompt_end: layouts.prompt_end,
            step: step?,
            // ONNX Runtime's attention takes a prompt behind a filled cache for one sequence only; and on a GPU more
            // rows are always better.
            chunk: match (options.provider, options.batch_size) {
                (Provider::Cpu, 1) if !whole => CHUNK,
                _ => usize::MAX,
            },
        })
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &BoundSession> {
        self.prompt.iter().chain([&self.step])
    }

    /// All of them, to bind something.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut BoundSession> {
        let Self { prompt, step, .. } = self;
        prompt.iter_mut().chain([step])
    }

    /// The one that runs `tokens` at once.
    pub fn for_tokens(&mut self, tokens: usize) -> &mut BoundSession {
        match &mut self.prompt {
            Some(prompt) if (2..self.prompt_end).contains(&tokens) => prompt,
            _ => &mut self.step,
        }
    }

    /// How many of the `left` tokens of a prompt go next.
    pub fn next_chunk(&self, left: usize) -> usize {
        left.min(self.chunk)
    }
}
