//! A further engine over the sessions of another: with a cache, bindings and an adapter of its own.
//! The weights, and what ONNX Runtime made of them, are there once.

use std::rc::Rc;

use super::open::Parts;
use super::{DecoderEngine, EngineError, EngineOptions, ResidentAdapter};
use crate::prepared::PreparedVariant;

impl DecoderEngine {
    /// An engine beside this one, for as many sequences, with `adapter` bound. `variant` and
    /// `options` are those that this engine was opened with.
    ///
    /// # Errors
    /// If there's no memory for its cache, or ONNX Runtime refuses a tensor.
    pub fn beside(
        &self,
        variant: &PreparedVariant,
        options: &EngineOptions,
        adapter: &Rc<ResidentAdapter>,
    ) -> Result<Self, EngineError> {
        let sessions = self.sessions.again(options);
        let parts = Parts {
            sessions: sessions.map_err(EngineError::runtime(&self.name))?,
            weights: self.weights.clone(),
            // A CUDA graph contains the addresses of one cache.
            stream: None,
            on_host: self.on_host.clone(),
            not_lowered: self.not_lowered.clone(),
        };
        parts.assemble(variant, options, Rc::clone(adapter))
    }

    /// The adapter that's bound.
    pub fn resident_adapter(&self) -> &Rc<ResidentAdapter> {
        &self.adapter
    }
}
