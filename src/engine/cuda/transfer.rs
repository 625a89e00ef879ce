//! Copies between the host and tensors on the device, ordered by a stream.

use ort::value::{DefiniteTensorValueTypeMarker, Value};

use crate::onnxruntime::cuda::{CopyKind, Stream};

/// Copies `bytes` to the beginning of `target`, a tensor on the device, after all work queued on
/// `stream`.
#[expect(unsafe_code, reason = "a copy between two memories")]
pub fn write<T>(stream: &Stream, bytes: &[u8], target: &mut Value<T>) -> Result<(), String>
where
    T: DefiniteTensorValueTypeMarker + ?Sized,
{
    // SAFETY: `target` has at least `bytes.len()` bytes. `bytes` isn't pinned, so CUDA copies it
    // before the call returns.
    unsafe {
        let target = target.data_ptr_mut().cast();
        stream.copy(
            target,
            bytes.as_ptr().cast(),
            bytes.len(),
            CopyKind::ToDevice,
        )
    }
}

/// Copies the first `target.len()` bytes of `source`, a tensor on the device, after all work queued
/// on `stream`, and waits for the copy.
#[expect(unsafe_code, reason = "a copy between two memories")]
pub fn read<T>(stream: &Stream, source: &Value<T>, target: &mut [u8]) -> Result<(), String>
where
    T: DefiniteTensorValueTypeMarker + ?Sized,
{
    // SAFETY: `source` has at least `target.len()` bytes, and the copy is waited for below.
    unsafe {
        let source = source.data_ptr().cast();
        stream.copy(
            target.as_mut_ptr().cast(),
            source,
            target.len(),
            CopyKind::ToHost,
        )?;
    }
    stream.synchronize()
}
