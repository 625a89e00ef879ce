//! The precision of weights and arithmetic.

use crate::arch::LatentCache;
use crate::graph::{Arithmetic, AttentionOperator, Device};
use crate::quantize::stored::BaseCodes;
use crate::quantize::{Accuracy, Quantization, QuantizedTypes};
use crate::weights::Dtype;

/// What weights are rounded or quantized to, and how the graph computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Precision {
    /// Where the graph runs.
    pub device: Device,
    /// The requested dtype, which weights are rounded to.
    pub dtype: Dtype,
    /// The dtype of the arithmetic; float32 on ONNX Runtime's CPU provider.
    pub compute: Dtype,
    /// The operators that attention is built from.
    pub attention: AttentionOperator,
    /// How weights are quantized after rounding, if they are.
    pub quantization: Option<Quantization>,
    /// How graphs use the weights of a base that's a quantized checkpoint; the default for any
    /// other.
    pub base: BaseCodes,
}

impl Precision {
    /// The precision for `dtype` on a GPU (`cuda`) or a CPU.
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
            base: BaseCodes::default(),
        }
    }

    /// This precision with another quantization.
    pub fn with_quantization(self, quantization: Option<Quantization>) -> Self {
        Self {
            quantization,
            ..self
        }
    }

    /// This precision with another use of a quantized base's weights.
    pub fn with_base(self, base: BaseCodes) -> Self {
        Self { base, ..self }
    }

    /// This precision for latent attention with this cache, if there's latent attention. A compressed
    /// one needs standard operators.
    pub fn with_latent_cache(self, cache: Option<LatentCache>) -> Self {
        match cache {
            Some(LatentCache::Compressed) => Self {
                attention: AttentionOperator::Standard,
                ..self
            },
            Some(LatentCache::Expanded) | None => self,
        }
    }

    /// The accuracy level of products with quantized weights; `None` on a GPU or if no weight's
    /// format has one.
    pub fn accuracy(self) -> Option<Accuracy> {
        let quantization = self.quantization.filter(|found| found.has_accuracy());
        match self.device {
            Device::Cpu => quantization.map(|quantization| quantization.accuracy),
            Device::Gpu => None,
        }
    }

    /// The accuracy level of all products with codes: of quantized weights, or of a base that's a
    /// quantized checkpoint.
    fn accuracy_level(self) -> Option<u8> {
        let of_base = (self.device == Device::Cpu && self.quantization.is_none())
            .then_some(self.base.accuracy);
        self.accuracy().or(of_base).map(Accuracy::level)
    }

    /// The types of quantized weights.
    pub fn quantized_types(self) -> QuantizedTypes {
        QuantizedTypes {
            weights: self.dtype,
            scales: self.compute,
        }
    }

    /// How the graph computes.
    pub fn arithmetic(self) -> Arithmetic {
        Arithmetic {
            device: self.device,
            storage: self.dtype,
            compute: self.compute,
            accuracy_level: self.accuracy_level(),
            attention: self.attention,
        }
    }

    /// The label in folder names.
    pub fn label(self) -> String {
        let mut label = self.dtype.to_string();
        if self.dtype != self.compute {
            label += &format!("-as-{}", self.compute);
        }
        if self.device == Device::Gpu && self.attention == AttentionOperator::Standard {
            label += "-cuda";
        }
        if let Some(quantization) = self.quantization {
            label += &format!("-{}", quantization.label());
        }
        let BaseCodes { kept, accuracy, .. } = self.base;
        if kept != BaseCodes::default().kept {
            label += &format!("-base-{}", kept.name());
        }
        if accuracy != BaseCodes::default().accuracy {
            label += &format!("-base-accuracy-{}", accuracy.level());
        }
        label
    }
}
