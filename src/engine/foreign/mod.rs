//! Runs graphs that other programs exported, as they are: nothing is lowered, and sessions have the
//! options of this program's own.
//!
//! A prompt is one run. Where the graph allows it, keys and values stay in buffers that are bound as
//! inputs and as outputs; otherwise each run's outputs are the next one's inputs.

mod cache;
mod inputs;
mod logits;
mod session;

use super::allocator::{self, ArenaBytes};
use super::{Engine, EngineError, EngineOptions, OnnxRuntime};
use crate::prepared::{ForeignGraphs, Manifest};
use cache::Cache;
use logits::Logits;
use session::ForeignSession;

/// The open graphs of another program.
///
/// Fields are dropped in order: sessions must outlive the tensors that they allocated.
#[derive(Debug)]
pub struct ForeignEngine {
    cache: Cache,
    logits: Option<Logits>,
    prompt: ForeignSession,
    /// Runs decode steps, if not the same one does.
    step: Option<ForeignSession>,
    name: String,
    vocab_size: usize,
    batch_size: usize,
    /// Number of cached positions.
    length: usize,
    max_length: usize,
}

impl ForeignEngine {
    /// Opens sessions on `graphs` and allocates their cache. `manifest` describes the model.
    pub(super) fn open(
        runtime: &OnnxRuntime,
        manifest: &Manifest,
        graphs: &ForeignGraphs,
        options: &EngineOptions,
    ) -> Result<Self, EngineError> {
        super::DecoderEngine::check_batch(manifest, options.batch_size)?;
        let name = graphs.prompt.file.display().to_string();
        let open = |graph, kind: &str| {
            ForeignSession::open(
                runtime,
                graph,
                &options.for_session(kind),
                manifest.vocab_size,
            )
        };
        let (prompt, step) = match &graphs.step {
            // The only session runs the steps as well, and those are what's profiled as such.
            None => (open(&graphs.prompt, "step")?, None),
            Some(step) => {
                let (prompt, step) =
                    rayon::join(|| open(&graphs.prompt, "prompt"), || open(step, "step"));
                (prompt?, Some(step?))
            }
        };
        let mut engine = Self {
            cache: Cache::new(graphs, options, prompt.session.allocator())
                .map_err(EngineError::runtime(&name))?,
            logits: None,
            prompt,
            step,
            name,
            vocab_size: manifest.vocab_size,
            batch_size: options.batch_size,
            length: 0,
            max_length: options.max_length,
        };
        let failed = EngineError::runtime(&engine.name);
        if let Cache::Shared(buffers) = &mut engine.cache {
            engine.prompt.bind_cache(buffers).map_err(failed)?;
        }
        Ok(engine)
    }

    /// The last run's logits of the first sequence, of its last position.
    ///
    /// # Panics
    /// If nothing was run.
    pub fn logits(&self) -> Vec<f32> {
        self.logits.as_ref().expect("nothing was run").last_of(0)
    }

    /// Statistics of the sessions' arenas, added up; `None` if an arena has none.
    pub fn arena_bytes(&self) -> Option<ArenaBytes> {
        let sessions = std::iter::once(&self.prompt).chain(&self.step);
        let arenas = sessions.filter_map(|session| session.arena.as_ref());
        let found: Option<Vec<ArenaBytes>> = arenas.map(allocator::arena_bytes).collect();
        found?.into_iter().reduce(ArenaBytes::plus)
    }

    fn run(&mut self, ids: &[u32]) -> Result<u32, EngineError> {
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= self.vocab_size) {
            return Err(EngineError::TokenId {
                id,
                vocab_size: self.vocab_size,
            });
        }
        let total = self.length + ids.len();
        if total > self.max_length {
            return Err(EngineError::TooLong {
                needed: total,
                reserved: self.max_length,
            });
        }
        let session = match &mut self.step {
            Some(step) if self.length > 0 => step,
            _ => &mut self.prompt,
        };
        let spare = self.logits.take();
        let logits = session.run(&mut self.cache, ids, self.length..total, spare)?;
        // Tokens of the other sequences are picked too, as whoever serves a batch has to.
        let mut first = None;
        for sequence in 0..self.batch_size {
            let token = logits.pick(sequence);
            first.get_or_insert(token);
        }
        self.logits = Some(logits);
        self.length = total;
        let first = first.and_then(|token| u32::try_from(token).ok());
        first.ok_or_else(|| EngineError::Run {
            name: self.name.clone(),
            message: "it gave no logits".to_owned(),
        })
    }
}

impl Engine for ForeignEngine {
    type Error = EngineError;

    fn prefill(&mut self, prompt_ids: &[u32]) -> Result<u32, EngineError> {
        if prompt_ids.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        self.length = 0;
        self.cache.clear();
        self.run(prompt_ids)
    }

    fn decode(&mut self, token: u32) -> Result<u32, EngineError> {
        self.run(&[token])
    }
}
