//! Adapters in memory, which are bound to a session when it's opened, and can be swapped later.
//!
//! Ranks are symbolic dimensions of the graph, so an adapter of another rank can be bound to the
//! same session without a new export.

use std::collections::BTreeSet;
use std::rc::Rc;

use ort::memory::Allocator;
use ort::session::IoBinding;
use ort::value::DynTensor;

use super::EngineError;
use super::tensors::{element_type, fill};
use crate::graph::{ACTIVE_FROM_INPUT, PROMPT_INPUT};
use crate::prepared::{ADAPTER, PreparedVariant, PromptKind, Variant};
use crate::weights::{Dtype, OnnxAdapterFile, SafetensorsFile, WeightsError};

/// An adapter's tensors, in memory that ONNX Runtime allocated.
#[derive(Debug)]
pub struct ResidentAdapter {
    pub(super) name: String,
    pub(super) tensors: Vec<(String, DynTensor)>,
    pub(super) bytes: u64,
    /// Embeddings of virtual tokens, which are bound for prefill only.
    pub(super) prompt: Option<Rc<DynTensor>>,
    /// Number of cache rows that the adapter fills before a generation (prefix tuning); they aren't
    /// inputs of the graph.
    prefix: usize,
    /// The invocation tokens: the adapter acts from their last occurrence in the prompt on. `None`
    /// if it always acts.
    invocation: Option<Vec<u32>>,
}

impl ResidentAdapter {
    /// Reads the adapter of `variant`; without an adapter, it has no tensors.
    pub(super) fn read(host: &Allocator, variant: &PreparedVariant) -> Result<Self, EngineError> {
        let mut resident = Self::without_tensors(variant);
        let Some(adapter) = &variant.manifest.adapter else {
            return Ok(resident);
        };
        if adapter.inputs.is_empty() {
            return Ok(resident);
        }
        let prefix = resident.prefix > 0;
        for_each_tensor(variant, |input, dtype, shape, bytes| {
            // A prefix is written into the cache instead.
            match input == PROMPT_INPUT && prefix {
                true => Ok(()),
                false => resident.hold(host, input, dtype, shape, bytes),
            }
        })?;
        Ok(resident)
    }

    /// The adapter of `variant` before its tensors are read.
    pub(super) fn without_tensors(variant: &PreparedVariant) -> Self {
        let manifest = &variant.manifest;
        let adapter = manifest.adapter.as_ref();
        let prefix = match adapter.and_then(|adapter| adapter.prompt) {
            Some(PromptKind::Prefix(rows)) => rows,
            _ => 0,
        };
        let invoked = adapter.filter(|_| manifest.variant == Variant::Unmerged);
        Self {
            name: variant.folder.display().to_string(),
            tensors: Vec::new(),
            bytes: 0,
            prompt: None,
            prefix,
            invocation: invoked.and_then(|adapter| adapter.invocation.clone()),
        }
    }

    /// Copies a tensor into memory of ONNX Runtime.
    fn hold(
        &mut self,
        host: &Allocator,
        input: &str,
        dtype: Dtype,
        shape: &[usize],
        bytes: &[u8],
    ) -> Result<(), EngineError> {
        let mut tensor = DynTensor::new(host, element_type(dtype), shape)
            .map_err(EngineError::runtime(&self.name))?;
        fill(&mut tensor, 0, bytes);
        self.bytes += bytes.len() as u64;
        match input == PROMPT_INPUT {
            true => self.prompt = Some(Rc::new(tensor)),
            false => self.tensors.push((input.to_owned(), tensor)),
        }
        Ok(())
    }

    /// Binds the tensors, except virtual tokens. On a GPU, binding copies them to the device.
    pub(super) fn bind(&self, binding: &mut IoBinding) -> Result<(), EngineError> {
        let failed = EngineError::runtime(&self.name);
        for (input, tensor) in &self.tensors {
            binding
                .bind_input(input.as_str(), tensor)
                .map_err(&failed)?;
        }
        Ok(())
    }

    /// The first position of `prompt` that the adapter acts on, if it has invocation tokens;
    /// `i64::MAX` if the prompt doesn't contain them.
    pub(super) fn active_from(&self, prompt: &[u32]) -> Option<i64> {
        let invocation = self.invocation.as_deref()?;
        let mut places = prompt.windows(invocation.len());
        let start = places.rposition(|place| place == invocation);
        Some(start.map_or(i64::MAX, |start| start as i64))
    }

    /// Number of virtual tokens in front of a prompt.
    pub(super) fn virtual_tokens(&self) -> usize {
        let prompt = self.prompt.as_ref();
        prompt.map_or(0, |prompt| prompt.shape()[0] as usize)
    }

    /// Size of the tensors in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Checks that the adapter can be bound to the session that `other` is bound to.
    ///
    /// # Errors
    /// If they have different inputs, or one has a prefix, which is part of the session's cache.
    pub(super) fn check_inputs(&self, other: &Self) -> Result<(), EngineError> {
        let inputs = |adapter: &Self| -> BTreeSet<String> {
            let names = adapter.tensors.iter().map(|(name, _)| name.clone());
            let prompt = adapter.prompt.iter().map(|_| PROMPT_INPUT.to_owned());
            let start = adapter
                .invocation
                .iter()
                .map(|_| ACTIVE_FROM_INPUT.to_owned());
            names.chain(prompt).chain(start).collect()
        };
        let (mine, others) = (inputs(self), inputs(other));
        let problem = if self.prefix + other.prefix > 0 {
            Some("a prefix is part of the cache and can't be swapped".to_owned())
        } else {
            let different = mine.symmetric_difference(&others).next();
            different.map(|name| format!("only one of them has the input `{name}`"))
        };
        match problem {
            None => Ok(()),
            Some(reason) => Err(EngineError::Swap {
                name: self.name.clone(),
                other: other.name.clone(),
                reason,
            }),
        }
    }
}

/// Calls `take` with the name, dtype, shape and bytes of each tensor of the adapter of `variant`.
pub(super) fn for_each_tensor(
    variant: &PreparedVariant,
    mut take: impl FnMut(&str, Dtype, &[usize], &[u8]) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    let Some(adapter) = &variant.manifest.adapter else {
        return Ok(());
    };
    if let Some(file) = &adapter.file {
        let file = OnnxAdapterFile::open(&variant.folder.join(file))?;
        for tensor in file.tensors() {
            take(&tensor.name, tensor.dtype, &tensor.shape, &tensor.bytes)?;
        }
        return Ok(());
    }
    let path = variant.folder.join(ADAPTER);
    let file = SafetensorsFile::open(&path)?;
    for input in &adapter.inputs {
        let view = file.get(input).ok_or_else(|| WeightsError::Missing {
            name: input.clone(),
            path: path.clone(),
        })?;
        take(input, view.dtype()?, &view.shape, view.bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_acts_from_the_start_of_the_last_invocation_on() {
        let mut adapter = ResidentAdapter {
            name: String::new(),
            tensors: Vec::new(),
            bytes: 0,
            prompt: None,
            prefix: 0,
            invocation: None,
        };
        assert_eq!(adapter.active_from(&[1, 2, 3]), None);
        adapter.invocation = Some(vec![1, 2]);
        assert_eq!(adapter.active_from(&[1, 2, 0, 1, 2, 0, 1]), Some(3));
        assert_eq!(adapter.active_from(&[1, 2]), Some(0));
        for absent in [&[2, 1][..], &[1], &[]] {
            assert_eq!(adapter.active_from(absent), Some(i64::MAX));
        }
    }
}
