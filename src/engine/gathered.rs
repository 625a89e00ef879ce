//! Several adapters in one session, of which each row of the batch picks its own.

use std::rc::Rc;

use super::open::Parts;
use super::tensors::new_tensor;
use super::{DecoderEngine, EngineError, EngineOptions, OnnxRuntime, ResidentAdapter};
use crate::lowering::gathered::{ADAPTER_INDEX, NotGathered, gather_adapters};
use crate::lowering::model_file;
use crate::prepared::PreparedVariant;

impl DecoderEngine {
    /// Opens the graph of the first of `adapters`, with the tensors of all in its sessions. Until
    /// [`assign`](Self::assign) says otherwise, every row has the first.
    ///
    /// # Errors
    /// If the method's tensors can't be picked by row, a file can't be read, or ONNX Runtime can't
    /// run the graph.
    ///
    /// # Panics
    /// If there are no `adapters`.
    pub fn open_gathered(
        runtime: &OnnxRuntime,
        adapters: &[PreparedVariant],
        options: &EngineOptions,
    ) -> Result<Self, EngineError> {
        let variant = &adapters[0];
        let mut model = model_file::read(&variant.folder, options.max_length)?;
        let summary = variant.manifest.adapter.as_ref();
        let inputs = summary.map_or(&[][..], |adapter| adapter.inputs.as_slice());
        gather_adapters(&mut model, inputs, adapters.len()).map_err(EngineError::Gathered)?;
        let parts = Parts::open(runtime, variant, model, options, None)?;
        let host = parts.sessions.step.session.allocator();
        let stacked = Rc::new(ResidentAdapter::stacked(host, adapters)?);
        let mut engine = parts.assemble(variant, options, stacked)?;
        engine.assign(&vec![0; options.batch_size])?;
        Ok(engine)
    }

    /// Gives each row the adapter with this number, from the next prefill on.
    ///
    /// # Errors
    /// If the engine wasn't opened for several adapters.
    pub fn assign(&mut self, adapters: &[usize]) -> Result<(), EngineError> {
        let failed = EngineError::runtime(&self.name);
        let numbers: Vec<i64> = adapters.iter().map(|&number| number as i64).collect();
        let host = self.sessions.step.session.allocator();
        let index = new_tensor(host, &[numbers.len()], &numbers).map_err(&failed)?;
        for bound in self.sessions.iter_mut() {
            let binding = &mut bound.binding;
            binding.bind_input(ADAPTER_INDEX, &index).map_err(&failed)?;
        }
        Ok(())
    }

    /// Why the rows of a batch can't pick their own adapter of `variant`; `None` if they can.
    ///
    /// # Errors
    /// If its graph can't be read.
    pub fn not_gathered(variant: &PreparedVariant) -> Result<Option<NotGathered>, EngineError> {
        let mut model = model_file::read(&variant.folder, 1)?;
        let summary = variant.manifest.adapter.as_ref();
        let inputs = summary.map_or(&[][..], |adapter| adapter.inputs.as_slice());
        Ok(gather_adapters(&mut model, inputs, 2).err())
    }
}
