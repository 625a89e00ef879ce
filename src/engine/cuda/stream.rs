//! A stream of the CUDA runtime, and copies in its order.

use std::ffi::{c_int, c_uint, c_void};
use std::ptr;

use libloading::Library;
use ort::value::{DefiniteTensorValueTypeMarker, Value};

/// The runtime that ONNX Runtime's CUDA provider is linked with.
const RUNTIME: &str = "libcudart.so.13";

/// `cudaStreamNonBlocking`: it doesn't wait for the default stream, and can be captured.
const NON_BLOCKING: c_uint = 1;
/// `cudaMemcpyHostToDevice`
const TO_DEVICE: c_int = 1;
/// `cudaMemcpyDeviceToHost`
const TO_HOST: c_int = 2;

type SetDevice = unsafe extern "C" fn(c_int) -> c_int;
type Create = unsafe extern "C" fn(*mut *mut c_void, c_uint) -> c_int;
type Copy = unsafe extern "C" fn(*mut c_void, *const c_void, usize, c_int, *mut c_void) -> c_int;
type OnStream = unsafe extern "C" fn(*mut c_void) -> c_int;

/// A stream on one device. Sessions that run on it must be dropped before it.
#[derive(Debug)]
pub struct Stream {
    handle: *mut c_void,
    copy: Copy,
    synchronize: OnStream,
    destroy: OnStream,
    /// The functions above are in it.
    _library: Library,
}

impl Stream {
    /// A new stream on `device`, in the context that ONNX Runtime uses too.
    ///
    /// # Errors
    /// If the runtime can't be loaded, or refuses.
    #[expect(unsafe_code, reason = "functions of a C library")]
    pub fn new(device: u32) -> Result<Self, String> {
        // SAFETY: loading it has no effects beyond those that ONNX Runtime's loading it has; the names and types are those
        // of CUDA's `cuda_runtime_api.h`.
        unsafe {
            let library = Library::new(RUNTIME).map_err(|error| error.to_string())?;
            let missing = |error: libloading::Error| error.to_string();
            let set_device: SetDevice = *library.get(c"cudaSetDevice").map_err(missing)?;
            let create: Create = *library.get(c"cudaStreamCreateWithFlags").map_err(missing)?;
            let copy: Copy = *library.get(c"cudaMemcpyAsync").map_err(missing)?;
            let synchronize: OnStream = *library.get(c"cudaStreamSynchronize").map_err(missing)?;
            let destroy: OnStream = *library.get(c"cudaStreamDestroy").map_err(missing)?;
            checked("cudaSetDevice", set_device(device as c_int))?;
            let mut handle = ptr::null_mut();
            checked(
                "cudaStreamCreateWithFlags",
                create(&mut handle, NON_BLOCKING),
            )?;
            Ok(Self {
                handle,
                copy,
                synchronize,
                destroy,
                _library: library,
            })
        }
    }

    /// The stream itself, a `cudaStream_t`.
    pub fn handle(&self) -> *mut () {
        self.handle.cast()
    }

    /// Copies `bytes` to the beginning of `target`, a tensor on the device, behind what was started before.
    #[expect(unsafe_code, reason = "a copy between two memories")]
    pub fn write<T>(&self, bytes: &[u8], target: &mut Value<T>) -> Result<(), String>
    where
        T: DefiniteTensorValueTypeMarker + ?Sized,
    {
        // SAFETY: callers give the tensor that they made for so many bytes. Memory that isn't pinned has been read when the
        // call returns.
        let code = unsafe {
            let target = target.data_ptr_mut();
            (self.copy)(
                target.cast(),
                bytes.as_ptr().cast(),
                bytes.len(),
                TO_DEVICE,
                self.handle,
            )
        };
        checked("cudaMemcpyAsync", code)
    }

    /// Copies the first `target.len()` bytes of `source`, a tensor on the device, once all is done that was started
    /// before.
    #[expect(unsafe_code, reason = "a copy between two memories")]
    pub fn read<T>(&self, source: &Value<T>, target: &mut [u8]) -> Result<(), String>
    where
        T: DefiniteTensorValueTypeMarker + ?Sized,
    {
        // SAFETY: callers give the tensor that they made for so many bytes; `target` is written before this returns.
        let code = unsafe {
            let source = source.data_ptr();
            (self.copy)(
                target.as_mut_ptr().cast(),
                source.cast(),
                target.len(),
                TO_HOST,
                self.handle,
            )
        };
        checked("cudaMemcpyAsync", code)?;
        // SAFETY: the stream is alive.
        checked("cudaStreamSynchronize", unsafe {
            (self.synchronize)(self.handle)
        })
    }
}

// SAFETY: the CUDA runtime takes a stream from any thread, and from several at once.
#[expect(unsafe_code, reason = "the handle is a pointer")]
unsafe impl Send for Stream {}
// SAFETY: the same.
#[expect(unsafe_code, reason = "the handle is a pointer")]
unsafe impl Sync for Stream {}

impl Drop for Stream {
    #[expect(unsafe_code, reason = "functions of a C library")]
    fn drop(&mut self) {
        // SAFETY: the stream is alive, and isn't used any more.
        let _ = unsafe { (self.destroy)(self.handle) };
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
