//! Safetensors files: reading tensors in place, writing them one after the other, converting
//! dtypes.

mod convert;
mod diagnosis;
mod dtype;
mod error;
mod file;
mod onnx_adapter;
mod packed;
mod page_writer;

mod store;
mod writer;

pub use convert::{NonFinite, encode, first_non_finite, round_to, widen};
pub use dtype::{Dtype, UnknownDtype};
pub use error::WeightsError;
pub use file::{ByteSpan, SafetensorsFile, TensorLocation, TensorView};
pub use onnx_adapter::{
    AdapterTensor, EXTENSION as ONNX_ADAPTER, OnnxAdapterFile, write_onnx_adapter,
};
pub use packed::{PackedMatrix, TensorHandle};
pub use store::{TensorSlice, TensorStore};
pub use writer::{BytesPlan, SafetensorsWriter, TensorPlan, WriteTensorError};
