//! What runs a variant: this program's own engine, or the one for graphs of other programs.

use super::{
    ArenaBytes, DecoderEngine, Engine, EngineError, EngineOptions, ForeignEngine, NotLowered,
    OnnxRuntime, StepGraph,
};
use crate::prepared::PreparedVariant;

/// An open variant.
#[derive(Debug)]
pub enum Runner {
    /// A prepared variant.
    Own(Box<DecoderEngine>),
    /// Graphs that another program exported.
    Foreign(Box<ForeignEngine>),
}

impl Runner {
    /// Opens `variant`.
    ///
    /// # Errors
    /// If a file is missing, or ONNX Runtime can't run the graph as asked.
    pub fn open(
        runtime: &OnnxRuntime,
        variant: &PreparedVariant,
        options: &EngineOptions,
    ) -> Result<Self, EngineError> {
        Ok(match &variant.manifest.foreign {
            None => Self::Own(Box::new(DecoderEngine::open(runtime, variant, options)?)),
            Some(graphs) => {
                let engine = ForeignEngine::open(runtime, &variant.manifest, graphs, options)?;
                Self::Foreign(Box::new(engine))
            }
        })
    }

    /// The last step's logits of the first sequence, `[vocab_size]`.
    ///
    /// # Panics
    /// If it was opened without `logits_on_host`.
    pub fn logits(&self) -> Vec<f32> {
        match self {
            Self::Own(engine) => engine.logits(),
            Self::Foreign(engine) => engine.logits(),
        }
    }

    /// How decode steps are started; `None` unless a CUDA graph was asked for.
    pub fn step_graph(&self) -> Option<&StepGraph> {
        match self {
            Self::Own(engine) => engine.step_graph(),
            Self::Foreign(_) => None,
        }
    }

    /// The nodes with a role that couldn't be lowered.
    pub fn not_lowered(&self) -> &[NotLowered] {
        match self {
            Self::Own(engine) => engine.not_lowered(),
            Self::Foreign(_) => &[],
        }
    }

    /// Statistics of the sessions' arenas, added up; `None` if an arena has none.
    pub fn arena_bytes(&self) -> Option<ArenaBytes> {
        match self {
            Self::Own(engine) => engine.arena_bytes(),
            Self::Foreign(engine) => engine.arena_bytes(),
        }
    }
}

impl Engine for Runner {
    type Error = EngineError;

    fn prefill(&mut self, prompt_ids: &[u32]) -> Result<u32, EngineError> {
        match self {
            Self::Own(engine) => engine.prefill(prompt_ids),
            Self::Foreign(engine) => engine.prefill(prompt_ids),
        }
    }

    fn decode(&mut self, token: u32) -> Result<u32, EngineError> {
        match self {
            Self::Own(engine) => engine.decode(token),
            Self::Foreign(engine) => engine.decode(token),
        }
    }
}
