//! Tensors in and out: safetensors files read in place, and written one tensor after the other.

mod convert;
mod diagnosis;
mod dtype;
mod error;
mod file;
mod page_writer;
mod quantized;

mod store;
mod writer;

pub use convert::{NonFinite, encode, first_non_finite, round_to, widen};
pub use dtype::{Dtype, UnknownDtype};
pub use error::WeightsError;
pub use file::{ByteSpan, SafetensorsFile, TensorLocation, TensorView};
pub use quantized::{CodeTable, Encoding, NF4, QuantizedWeight};

pub use store::{TensorSlice, TensorStore};
pub use writer::{BytesPlan, SafetensorsWriter, TensorPlan, WriteTensorError};
