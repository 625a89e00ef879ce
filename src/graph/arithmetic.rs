//! How a graph computes.

use super::AttentionOperator;
use crate::weights::Dtype;

/// The kind of processor that a graph is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// ONNX Runtime's CPU provider, which computes in float32.
    Cpu,
    /// Its CUDA provider.
    Gpu,
}

/// How a graph computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arithmetic {
    /// Where it runs.
    pub device: Device,
    /// The type that weights are rounded to.
    pub storage: Dtype,
    /// The type of the arithmetic.
    pub compute: Dtype,
    /// `accuracy_level` of `MatMulNBits`, where it's chosen.
    pub accuracy_level: Option<u8>,
    /// The attention operator.
    pub attention: AttentionOperator,
}
