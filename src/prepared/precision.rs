//! What weights are rounded to, and how a graph computes with them.

use crate::graph::{Arithmetic, AttentionOperator, Device};
use crate::quantize::{Accuracy, Quantization, QuantizedTypes};
use crate::weights::Dtype;

/// What weights are rounded to, and what the graph computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Precision {
    /// Where the graph runs.
    pub device: Device,
    /// The dtype that was asked for.
    pub dtype: Dtype,
    /// The dtype of the arithmetic. ONNX Runtime's CPU provider computes in float32.
    pub compute: Dtype,
    /// What attention is made of.
    pub attention: AttentionOperator,
    /// How weights are quantized, once they're rounded.
    pub quantization: Option<Quantization>,
}

impl Precision {
    /// The precision of `dtype` on a CPU or a GPU.
    pub fn new(dtype: Dtype, cuda: bool) -> Self {
        let attention = match (cuda, dtype) {
            (true, Dtype::Float32) => AttentionOperator::Standard,
            _ => AttentionOperator::GroupQuery,
        };
        Self {
            device: if cuda { Device::Gpu } else { Device::Cpu },
            dtype,
            compute: if cuda { dtype } else { Dtype::Float32 },
            attention,
            quantization: None,
        }
    }

    /// The same with quantized weights.
    pub fn with_quantization(self, quantization: Option<Quantization>) -> Self {
        Self {
            quantization,
            ..self
        }
    }

    /// The arithmetic of products with quantized weights where it's chosen: on a CPU.
    pub fn accuracy(self) -> Option<Accuracy> {
        let quantization = self.quantization.filter(|found| found.has_accuracy());
        match self.device {
            Device::Cpu => quantization.map(|quantization| quantization.accuracy),
            Device::Gpu => None,
        }
    }

    /// The types of what's quantized.
    pub fn quantized_types(self) -> QuantizedTypes {
        QuantizedTypes {
            weights: self.dtype,
            scales: self.compute,
        }
    }

    /// How a graph computes.
    pub fn arithmetic(self) -> Arithmetic {
        Arithmetic {
            device: self.device,
            storage: self.dtype,
            compute: self.compute,
            accuracy_level: self.accuracy().map(Accuracy::level),
            attention: self.attention,
        }
    }

    /// In names of folders.
    pub fn label(self) -> String {
        let mut label = self.dtype.to_string();
        if self.dtype != self.compute {
            label += &format!("-as-{}", self.compute);
        }
        if self.attention == AttentionOperator::Standard {
            label += "-cuda";
        }
        if let Some(quantization) = self.quantization {
            label += &format!("-{}", quantization.label());
        }
        label
    }
}
