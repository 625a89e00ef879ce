//! The few functions of the CUDA runtime that this program calls itself, rather than through ONNX
//! Runtime.
//!
//! Source: CUDA Runtime API, `cuda_runtime_api.h`.

use std::ffi::{c_int, c_uint, c_void};
use std::ptr;
use std::sync::Arc;

use libloading::Library;

use super::cuda_libraries;

/// The version of the CUDA runtime that ONNX Runtime's CUDA provider is linked with.
const NAME: &str = "libcudart.so.13";

/// `cudaStreamNonBlocking`: the stream doesn't wait for the default stream, and can be captured.
const NON_BLOCKING: c_uint = 1;

/// The direction of a copy: `cudaMemcpyKind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyKind {
    /// From the host to the device.
    ToDevice = 1,
    /// From the device to the host.
    ToHost = 2,
    /// Within the device.
    WithinDevice = 3,
}

type SetDevice = unsafe extern "C" fn(c_int) -> c_int;
type Create = unsafe extern "C" fn(*mut *mut c_void, c_uint) -> c_int;
type Copy = unsafe extern "C" fn(*mut c_void, *const c_void, usize, c_int, *mut c_void) -> c_int;
type Allocate = unsafe extern "C" fn(*mut *mut c_void, usize) -> c_int;
type OfPointer = unsafe extern "C" fn(*mut c_void) -> c_int;

/// The loaded CUDA runtime, for one device.
#[derive(Debug)]
struct Runtime {
    copy: Copy,
    synchronize: OfPointer,
    destroy: OfPointer,
    allocate: Allocate,
    free: OfPointer,
    /// Keeps the library, and so the functions, loaded.
    _library: Library,
}

/// A CUDA stream on one device. Work on it must have finished before it's dropped.
#[derive(Debug)]
pub struct Stream {
    handle: *mut c_void,
    runtime: Arc<Runtime>,
}

impl Stream {
    /// Creates a stream on `device`, in the same CUDA context as ONNX Runtime.
    ///
    /// # Errors
    /// If the runtime can't be loaded, or reports an error.
    #[expect(unsafe_code, reason = "functions of a C library")]
    pub fn new(device: u32) -> Result<Self, String> {
        // The runtime may be in a folder that the loader doesn't search.
        cuda_libraries::preload();
        // SAFETY: loading it has no effects beyond those that ONNX Runtime's loading has; names and
        // types are those of the header.
        unsafe {
            let library = Library::new(NAME).map_err(|error| error.to_string())?;
            let missing = |error: libloading::Error| error.to_string();
            let set_device: SetDevice = *library.get(c"cudaSetDevice").map_err(missing)?;
            let create: Create = *library.get(c"cudaStreamCreateWithFlags").map_err(missing)?;
            let runtime = Runtime {
                copy: *library.get(c"cudaMemcpyAsync").map_err(missing)?,
                synchronize: *library.get(c"cudaStreamSynchronize").map_err(missing)?,
                destroy: *library.get(c"cudaStreamDestroy").map_err(missing)?,
                allocate: *library.get(c"cudaMalloc").map_err(missing)?,
                free: *library.get(c"cudaFree").map_err(missing)?,
                _library: library,
            };
            checked("cudaSetDevice", set_device(device as c_int))?;
            let mut handle = ptr::null_mut();
            checked(
                "cudaStreamCreateWithFlags",
                create(&mut handle, NON_BLOCKING),
            )?;
            Ok(Self {
                handle,
                runtime: Arc::new(runtime),
            })
        }
    }

    /// The `cudaStream_t` itself.
    pub fn handle(&self) -> *mut () {
        self.handle.cast()
    }

    /// Enqueues a copy on the stream. Host memory that isn't pinned has been read when this
    /// returns.
    ///
    /// # Safety
    /// Both pointers must be valid for `bytes` bytes in the memories that `kind` names, until the
    /// copy is done.
    ///
    /// # Errors
    /// If the CUDA runtime reports an error.
    #[expect(unsafe_code, reason = "a copy between two memories")]
    pub unsafe fn copy(
        &self,
        target: *mut c_void,
        source: *const c_void,
        bytes: usize,
        kind: CopyKind,
    ) -> Result<(), String> {
        // SAFETY: as the caller says; the stream is alive.
        let code =
            unsafe { (self.runtime.copy)(target, source, bytes, kind as c_int, self.handle) };
        checked("cudaMemcpyAsync", code)
    }

    /// Waits for all work on the stream.
    ///
    /// # Errors
    /// If the CUDA runtime reports an error, also one of the work itself.
    #[expect(unsafe_code, reason = "functions of a C library")]
    pub fn synchronize(&self) -> Result<(), String> {
        // SAFETY: the stream is alive.
        checked("cudaStreamSynchronize", unsafe {
            (self.runtime.synchronize)(self.handle)
        })
    }

    /// Allocates device memory.
    ///
    /// # Errors
    /// If the CUDA runtime reports an error, such as exhausted memory.
    #[expect(unsafe_code, reason = "functions of a C library")]
    pub fn allocate(&self, bytes: usize) -> Result<DeviceMemory, String> {
        let mut start = ptr::null_mut();
        // SAFETY: `start` is written on success.
        checked("cudaMalloc", unsafe {
            (self.runtime.allocate)(&mut start, bytes)
        })?;
        Ok(DeviceMemory {
            start,
            runtime: Arc::clone(&self.runtime),
        })
    }
}

// SAFETY: the CUDA runtime accepts a stream from any thread.
#[expect(unsafe_code, reason = "the handle is a pointer")]
unsafe impl Send for Stream {}
// SAFETY: the CUDA runtime accepts a stream from several threads at once.
#[expect(unsafe_code, reason = "the handle is a pointer")]
unsafe impl Sync for Stream {}

impl Drop for Stream {
    #[expect(unsafe_code, reason = "functions of a C library")]
    fn drop(&mut self) {
        // SAFETY: the stream is alive, and isn't used any more.
        let _ = unsafe { (self.runtime.destroy)(self.handle) };
    }
}

/// Device memory; it's freed when it's dropped.
#[derive(Debug)]
pub struct DeviceMemory {
    start: *mut c_void,
    runtime: Arc<Runtime>,
}

impl DeviceMemory {
    /// The address of its first byte, on the device.
    pub fn start(&self) -> *mut c_void {
        self.start
    }
}

impl Drop for DeviceMemory {
    #[expect(unsafe_code, reason = "functions of a C library")]
    fn drop(&mut self) {
        // SAFETY: this value owns the memory, and the runtime waits for work that still uses it.
        let _ = unsafe { (self.runtime.free)(self.start) };
    }
}

fn checked(function: &str, code: c_int) -> Result<(), String> {
    match code {
        0 => Ok(()),
        code => Err(format!(
            "`{function}` failed with error {code} of the CUDA runtime"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_function_and_code() {
        assert_eq!(checked("cudaMalloc", 0), Ok(()));
        assert_eq!(
            checked("cudaMalloc", 2).unwrap_err(),
            "`cudaMalloc` failed with error 2 of the CUDA runtime"
        );
    }
}
