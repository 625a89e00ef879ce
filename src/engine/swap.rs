//! Adapters that take each other's place in an open session.

use std::rc::Rc;

use super::{DecoderEngine, EngineError, ResidentAdapter, StepGraph, SwapEngine};
use crate::prepared::PreparedVariant;

impl DecoderEngine {
    /// Reads another adapter for this session, to be bound by [`swap_adapter`](Self::swap_adapter).
    ///
    /// # Errors
    /// If its file can't be read, or it was made for another graph.
    pub fn load_adapter(&self, variant: &PreparedVariant) -> Result<ResidentAdapter, EngineError> {
        let adapter = ResidentAdapter::read(self.sessions.step.session.allocator(), variant)?;
        adapter.check_inputs(&self.adapter)?;
        Ok(adapter)
    }

    /// Binds an adapter in place of the present one. The next prefill runs with it.
    ///
    /// # Errors
    /// If ONNX Runtime refuses a tensor.
    pub fn swap_adapter(&mut self, adapter: &Rc<ResidentAdapter>) -> Result<(), EngineError> {
        // It has the first adapter's places in memory.
        if self.captured.take().is_some() {
            let reason = "another adapter has been bound since it was recorded";
            self.step_graph = Some(StepGraph::Refused(reason.to_owned()));
        }
        for bound in self.sessions.iter_mut() {
            adapter.bind(&mut bound.binding)?;
        }
        self.adapter = Rc::clone(adapter);
        let prompt = self.adapter.prompt.as_ref();
        self.virtual_tokens = prompt.map_or(0, |prompt| prompt.shape()[0] as usize);
        Ok(())
    }
}

impl SwapEngine for DecoderEngine {
    type Adapter = Rc<ResidentAdapter>;

    fn swap(&mut self, adapter: &Rc<ResidentAdapter>) -> Result<(), EngineError> {
        self.swap_adapter(adapter)
    }
}
