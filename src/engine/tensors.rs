//! Helpers for tensors that are bound to a session.
//!
//! All data is copied into memory that ONNX Runtime allocates. `ort` clones a tensor over borrowed
//! memory when it's bound, and in this release that clone deadlocks.

use ort::memory::Allocator;
use ort::value::{DefiniteTensorValueTypeMarker, DynTensor, Tensor, TensorElementType, Value};

use crate::weights::Dtype;

/// ONNX Runtime's element type of a dtype.
pub fn element_type(dtype: Dtype) -> TensorElementType {
    match dtype {
        Dtype::Float32 => TensorElementType::Float32,
        Dtype::Float16 => TensorElementType::Float16,
        Dtype::BFloat16 => TensorElementType::Bfloat16,
    }
}

/// The first `length` bytes of a tensor in host memory.
#[expect(
    unsafe_code,
    reason = "`ort` gives typed slices only for types known at compile time"
)]
pub fn bytes_of<T: DefiniteTensorValueTypeMarker + ?Sized>(
    tensor: &Value<T>,
    length: usize,
) -> &[u8] {
    assert!(tensor.memory_info().is_cpu_accessible());
    // SAFETY: callers pass at most the size of the tensor, which is in host memory.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast(), length) }
}

/// Copies `bytes` to byte `offset` of a tensor in host memory.
#[expect(
    unsafe_code,
    reason = "`ort` gives typed slices only for types known at compile time"
)]
pub fn fill(tensor: &mut DynTensor, offset: usize, bytes: &[u8]) {
    assert!(tensor.memory_info().is_cpu_accessible());
    // SAFETY: callers stay within the tensor, which is in host memory.
    unsafe {
        let target = tensor.data_ptr_mut().cast::<u8>().add(offset);
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len());
    }
}

/// A new int64 tensor with `values`.
pub fn new_tensor(
    allocator: &Allocator,
    shape: &[usize],
    values: &[i64],
) -> ort::Result<Tensor<i64>> {
    let mut tensor = Tensor::<i64>::new(allocator, shape)?;
    tensor.extract_tensor_mut().1.copy_from_slice(values);
    Ok(tensor)
}
