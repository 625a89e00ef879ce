//! Swapping the adapter of an open session.

use std::rc::Rc;

use super::{DecoderEngine, EngineError, ResidentAdapter, StepGraph, SwapEngine};
use crate::prepared::PreparedVariant;

impl DecoderEngine {
    /// Reads another adapter for this session; [`swap_adapter`](Self::swap_adapter) binds it.
    ///
    /// # Errors
    /// If its file can't be read, or it has other inputs than the present adapter.
    pub fn load_adapter(&self, variant: &PreparedVariant) -> Result<ResidentAdapter, EngineError> {
        let adapter = ResidentAdapter::read(self.sessions.step.session.allocator(), variant)?;
        adapter.check_inputs(&self.adapter)?;
        Ok(adapter)
    }

    /// Binds an adapter instead of the present one, from the next prefill on.
    ///
    /// # Errors
    /// If ONNX Runtime refuses a tensor.
    pub fn swap_adapter(&mut self, adapter: &Rc<ResidentAdapter>) -> Result<(), EngineError> {
        // The recorded graph contains the first adapter's addresses.
        if self.captured.take().is_some() {
            let reason = "another adapter has been bound since it was recorded";
            self.step_graph = Some(StepGraph::Refused(reason.to_owned()));
        }
        for bound in self.sessions.iter_mut() {
            adapter.bind(&mut bound.binding)?;
        }
        self.adapter = Rc::clone(adapter);
        self.virtual_tokens = self.adapter.virtual_tokens();
        Ok(())
    }
}

impl SwapEngine for DecoderEngine {
    type Adapter = Rc<ResidentAdapter>;

    fn swap(&mut self, adapter: &Rc<ResidentAdapter>) -> Result<(), EngineError> {
        self.swap_adapter(adapter)
    }
}
