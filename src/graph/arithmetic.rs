//! The device, dtypes and attention operator of a graph.

use super::AttentionOperator;
use crate::weights::Dtype;

/// The kind of processor that a graph is built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// ONNX Runtime's CPU provider, which computes in float32.
    Cpu,
    /// ONNX Runtime's CUDA provider.
    Gpu,
}

/// The device, dtypes and attention operator of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arithmetic {
    /// The device that it runs on.
    pub device: Device,
    /// The dtype that weights are rounded to.
    pub storage: Dtype,
    /// The dtype of activations and arithmetic.
    pub compute: Dtype,
    /// The attribute `accuracy_level` of `MatMulNBits`; `None` leaves it out.
    pub accuracy_level: Option<u8>,
    /// The attention operator.
    pub attention: AttentionOperator,
}
