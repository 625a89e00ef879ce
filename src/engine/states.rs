//! Layers' states of a fixed size: buffers bound as `past` and as `present`, so that they're
//! updated in place.

use std::collections::BTreeSet;

use ort::memory::Allocator;
use ort::session::IoBinding;
use ort::value::DynTensor;

use super::cache::past;
use super::cuda::write;
use super::tensors::{bytes_of, element_type, fill};
use super::{EngineError, EngineOptions, Provider};
use crate::onnxruntime::cuda::Stream;
use crate::prepared::PreparedVariant;

/// The states of all layers.
#[derive(Debug)]
pub struct States {
    all: Vec<State>,
    /// The GPU that they're on, and the stream that they're set on.
    device: Option<(u32, Stream)>,
}

#[derive(Debug)]
struct State {
    past: String,
    present: String,
    tensor: DynTensor,
    is_on_host: bool,
    /// Of the whole batch.
    bytes: usize,
}

impl States {
    /// Allocates the states on `device`, or on `host` if their input is in `on_host`. Their values are
    /// undefined until [`clear`](Self::clear).
    ///
    /// # Errors
    /// If there's no memory for them, or the CUDA runtime reports an error.
    pub fn allocate(
        host: &Allocator,
        device: &Allocator,
        variant: &PreparedVariant,
        options: &EngineOptions,
        on_host: &BTreeSet<String>,
    ) -> Result<Self, EngineError> {
        let failed = EngineError::runtime(&variant.folder.display().to_string());
        let batch = options.batch_size;
        let states = variant.manifest.states.iter().map(|state| {
            let shape = [&[batch], state.shape.as_slice()].concat();
            let (layer, kind) = (state.layer, state.kind.name());
            let past = past(layer, kind);
            let is_on_host = on_host.contains(&past);
            let place = if is_on_host { host } else { device };
            let tensor = DynTensor::new(place, element_type(state.dtype), shape);
            Ok(State {
                past,
                is_on_host: is_on_host || options.provider == Provider::Cpu,
                present: format!("present.{layer}.{kind}"),
                tensor: tensor.map_err(&failed)?,
                bytes: batch * state.bytes(),
            })
        });
        let all = states.collect::<Result<Vec<State>, EngineError>>()?;
        let device = match options.provider {
            Provider::Cuda(device) if !all.is_empty() => {
                let stream = Stream::new(device);
                let stream = stream.map_err(|message| EngineError::Cuda { device, message })?;
                Some((device, stream))
            }
            _ => None,
        };
        Ok(Self { all, device })
    }

    /// Whether no layer has a state.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Binds them to a session, as inputs and as outputs.
    ///
    /// # Errors
    /// If ONNX Runtime refuses one; `name`, the variant's, is in the message.
    pub fn bind(&mut self, binding: &mut IoBinding, name: &str) -> Result<(), EngineError> {
        let failed = EngineError::runtime(name);
        for state in &mut self.all {
            let (past, tensor) = (state.past.as_str(), &mut state.tensor);
            binding.bind_input(past, &*tensor).map_err(&failed)?;
            binding
                .bind_output(&state.present, tensor)
                .map_err(&failed)?;
        }
        Ok(())
    }

    /// Copies them, in host memory.
    pub fn copy(&self) -> Vec<Vec<u8>> {
        let states = self.all.iter();
        states
            .map(|state| bytes_of(&state.tensor, state.bytes).to_vec())
            .collect()
    }

    /// Replaces them by `copied`; `false` if those have another form.
    pub fn set(&mut self, copied: &[Vec<u8>]) -> bool {
        let fits = self.all.len() == copied.len()
            && self
                .all
                .iter()
                .zip(copied)
                .all(|(state, bytes)| state.bytes == bytes.len());
        if fits {
            for (state, bytes) in self.all.iter_mut().zip(copied) {
                fill(&mut state.tensor, 0, bytes);
            }
        }
        fits
    }

    /// Sets them to zero, as they are before a prompt.
    ///
    /// # Errors
    /// If the CUDA runtime reports an error.
    pub fn clear(&mut self) -> Result<(), EngineError> {
        let largest = self.all.iter().map(|state| state.bytes).max();
        let zeros = vec![0; largest.unwrap_or(0)];
        let (on_host, on_device): (Vec<_>, Vec<_>) =
            self.all.iter_mut().partition(|state| state.is_on_host);
        for state in on_host {
            fill(&mut state.tensor, 0, &zeros[..state.bytes]);
        }
        let Some((device, stream)) = &self.device else {
            return Ok(());
        };
        let cleared = || {
            for state in on_device {
                write(stream, &zeros[..state.bytes], &mut state.tensor)?;
            }
            stream.synchronize()
        };
        cleared().map_err(|message| EngineError::Cuda {
            device: *device,
            message,
        })
    }
}
