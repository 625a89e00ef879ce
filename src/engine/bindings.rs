//! Tensors that are bound to a session.
//!
//! Everything is copied into memory that ONNX Runtime allocates. `ort` would clone a tensor over
//! borrowed memory when it's bound, and in this release that clone deadlocks.

use ort::memory::Allocator;
use ort::value::{DefiniteTensorValueTypeMarker, DynTensor, Tensor, TensorElementType, Value};

use crate::weights::Dtype;

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
