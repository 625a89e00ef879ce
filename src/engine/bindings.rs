//! Tensors that are bound to a session.
//!
//! Everything is copied into memory that ONNX Runtime allocates. `ort` would clone a tensor over
//! borrowed memory when it's bound, and in this release that clone deadlocks.

use ort::memory::Allocator;
use ort::session::IoBinding;
use ort::value::{DefiniteTensorValueTypeMarker, DynTensor, Tensor, TensorElementType, Value};

use super::EngineError;
use crate::graph::PROMPT_INPUT;
use crate::prepare::{ADAPTER, PreparedVariant, PromptKind};
use crate::weights::{Dtype, SafetensorsFile, WeightsError};

/// ONNX Runtime's name of a dtype.
pub fn element_type(dtype: Dtype) -> TensorElementType {
    match dtype {
        Dtype::Float32 => TensorElementType::Float32,
        Dtype::Float16 => TensorElementType::Float16,
        Dtype::BFloat16 => TensorElementType::Bfloat16,
    }
}

/// The first `length` bytes of a tensor on the host.
#[expect(
    unsafe_code,
    reason = "`ort` gives typed slices only for types known at compile time"
)]
pub fn bytes_of<T: DefiniteTensorValueTypeMarker + ?Sized>(
    tensor: &Value<T>,
    length: usize,
) -> &[u8] {
    assert!(tensor.memory_info().is_cpu_accessible());
    // SAFETY: callers give the length of the tensor that they made, which is on the host.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast(), length) }
}

/// Copies `bytes` to the beginning of a tensor on the host.
#[expect(
    unsafe_code,
    reason = "`ort` gives typed slices only for types known at compile time"
)]
pub fn fill(tensor: &mut DynTensor, offset: usize, bytes: &[u8]) {
    assert!(tensor.memory_info().is_cpu_accessible());
    // SAFETY: callers stay within the tensor that they made, which is on the host.
    unsafe {
        let target = tensor.data_ptr_mut().cast::<u8>().add(offset);
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len());
    }
}

/// A tensor of int64 with `values`.
pub fn new_tensor(
    allocator: &Allocator,
    shape: &[usize],
    values: &[i64],
) -> ort::Result<Tensor<i64>> {
    let mut tensor = Tensor::<i64>::new(allocator, shape)?;
    tensor.extract_tensor_mut().1.copy_from_slice(values);
    Ok(tensor)
}

/// Binds the adapter's tensors, once: on a GPU, binding copies them there. Returns the virtual tokens,
/// which are bound for prefill only.
pub fn bind_adapter(
    binding: &mut IoBinding,
    host: &Allocator,
    variant: &PreparedVariant,
) -> Result<Option<DynTensor>, EngineError> {
    let manifest = &variant.manifest;
    let Some(adapter) = &manifest.adapter else {
        return Ok(None);
    };
    if adapter.inputs.is_empty() || matches!(adapter.prompt, Some(PromptKind::Prefix(_))) {
        return Ok(None);
    }
    let path = variant.folder.join(ADAPTER);
    let file = SafetensorsFile::open(&path)?;
    let failed = EngineError::runtime(&variant.folder.display().to_string());
    let mut prompt = None;
    for name in &adapter.inputs {
        let view = file.get(name).ok_or_else(|| WeightsError::Missing {
            name: name.clone(),
            path: path.clone(),
        })?;
        let element = element_type(view.dtype()?);
        let mut tensor = DynTensor::new(host, element, view.shape).map_err(&failed)?;
        fill(&mut tensor, 0, view.bytes);
        if name == PROMPT_INPUT {
            prompt = Some(tensor);
        } else {
            binding
                .bind_input(name.as_str(), &tensor)
                .map_err(&failed)?;
        }
    }
    Ok(prompt)
}
