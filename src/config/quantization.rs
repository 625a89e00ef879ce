//! The keys on quantization: PEFT's `use_4bit` and `use_8bit`, and four more.

use super::ParametersError;
use crate::quantize::{Accuracy, Format, Part, Quantization};

/// How weights are quantized to 4 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Round to nearest, with evenly spaced values in each block.
    Rtn,
    /// NF4, as in bitsandbytes.
    Nf4,
}

/// Values of `quantization_scheme`.
pub const SCHEMES: [(&str, Scheme); 2] = [("rtn", Scheme::Rtn), ("nf4", Scheme::Nf4)];

/// Values of `quantization_head`.
pub const HEADS: [(&str, Part); 4] = [
    ("4bit", Part::Quantized(Format::Int4)),
    ("8bit", Part::Quantized(Format::Int8)),
    ("nf4", Part::Quantized(Format::Nf4)),
    ("float", Part::Float),
];

/// Values of `quantization_embedding`. There's no `nf4`, since ONNX Runtime has no operator that
/// looks up rows of NF4 codes.
pub const EMBEDDINGS: [(&str, Part); 3] = [
    ("4bit", Part::Quantized(Format::Int4)),
    ("8bit", Part::Quantized(Format::Int8)),
    ("float", Part::Float),
];

/// The keys on quantization, as files and options set them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QuantizationKeys {
    /// `use_4bit`
    pub use_4bit: Option<bool>,
    /// `use_8bit`
    pub use_8bit: Option<bool>,
    /// `quantization_scheme`
    pub scheme: Option<Scheme>,
    /// `quantization_head`
    pub head: Option<Part>,
    /// `quantization_embedding`
    pub embedding: Option<Part>,
    /// `quantization_accuracy_level`
    pub accuracy: Option<Accuracy>,
}

impl QuantizationKeys {
    /// These keys, completed by those of `others`.
    pub fn or(self, others: Self) -> Self {
        Self {
            use_4bit: self.use_4bit.or(others.use_4bit),
            use_8bit: self.use_8bit.or(others.use_8bit),
            scheme: self.scheme.or(others.scheme),
            head: self.head.or(others.head),
            embedding: self.embedding.or(others.embedding),
            accuracy: self.accuracy.or(others.accuracy),
        }
    }

    /// Replaces the keys that set the weights' format by those for `weights`; `None` quantizes
    /// nothing.
    pub fn set(&mut self, weights: Option<Format>) {
        self.use_4bit = Some(matches!(weights, Some(Format::Int4 | Format::Nf4)));
        self.use_8bit = Some(weights == Some(Format::Int8));
        self.scheme = (weights == Some(Format::Nf4)).then_some(Scheme::Nf4);
        if weights.is_none() {
            self.head = None;
            self.embedding = None;
            self.accuracy = None;
        }
    }

    /// The keys that resolve to `quantization`.
    pub fn of(quantization: Option<Quantization>) -> Self {
        let mut keys = Self::default();
        keys.set(quantization.map(|found| found.weights));
        let Some(found) = quantization else {
            return keys;
        };
        keys.head = Some(found.head.into());
        keys.embedding = Some(found.embedding.into());
        let usual = Quantization::with(found.weights, keys.head, keys.embedding, None);
        if usual != Ok(found) {
            keys.accuracy = Some(found.accuracy);
        }
        keys
    }

    /// Resolves the keys.
    ///
    /// # Errors
    /// If two keys contradict each other, or one would have no effect.
    pub fn resolve(self) -> Result<Option<Quantization>, ParametersError> {
        let failed = |message: &str| ParametersError::Quantization {
            message: message.to_owned(),
        };
        let nf4 = self.scheme == Some(Scheme::Nf4);
        let weights = match (
            self.use_4bit.unwrap_or(false),
            self.use_8bit.unwrap_or(false),
        ) {
            (true, true) => return Err(failed("`use_4bit` and `use_8bit` are both `true`")),
            (_, true) if nf4 => {
                return Err(failed(
                    "`quantization_scheme` `nf4` has 4 bits, and `use_8bit` is `true`",
                ));
            }
            (true, _) if nf4 => Format::Nf4,
            (true, _) => Format::Int4,
            (_, true) => Format::Int8,
            _ => {
                let given = [
                    (nf4, "`quantization_scheme` `nf4`"),
                    (self.head.is_some(), "`quantization_head`"),
                    (self.embedding.is_some(), "`quantization_embedding`"),
                    (self.accuracy.is_some(), "`quantization_accuracy_level`"),
                ];
                return match given.iter().find(|(given, _)| *given) {
                    None => Ok(None),
                    Some((_, key)) => Err(failed(&format!(
                        "{key} does nothing without `use_4bit` or `use_8bit` (`--quantize`)"
                    ))),
                };
            }
        };
        Quantization::with(weights, self.head, self.embedding, self.accuracy)
            .map(Some)
            .map_err(|message| failed(&format!("`quantization_accuracy_level`: {message}")))
    }
}
