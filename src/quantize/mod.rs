//! Quantized weights: the formats, what of a model is quantized, and the file that holds it.
//!
//! Linear layers are quantized, including those of experts. Routers aren't, as is usual: they're
//! small, and small differences decide between experts. Norms and biases aren't either, nor what
//! latent attention with a compressed cache applies to queries, a product with the transpose. The token
//! embedding is quantized only on request: that saves memory, but no time, since a step reads one
//! row of it. A tied head shares the embedding's codes if both have the same format; otherwise it
//! has its own.
//!
//! The quantized weights of a base are written once, next to its prepared folders, which all use
//! them ([`QuantizedFile`]).

mod encoding;
mod file;
mod formats;
mod operator;
pub mod stored;
mod table;

use serde::{Deserialize, Serialize};

pub use encoding::{Encoding, QuantizedWeight};
pub use file::{
    Base, QuantizeError, QuantizedFile, QuantizedTypes, joined_plans, quantize_rows, write_matrix,
};
pub use formats::{Format, Keys, Quantized, Sensitive, Switch, Tolerance};
pub use operator::Operator;
pub use table::{FP4, NF4, Table};

use crate::arch::{DecoderSpec, Module, ModuleKind};

/// How `MatMulNBits` computes on a CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum Accuracy {
    /// Level 4: inputs are rounded to 8 bits, in blocks, and products are summed as integers.
    Int8,
    /// Level 1: weights are widened to float32. Several times slower.
    Float32,
}

impl Accuracy {
    /// The operator's attribute `accuracy_level`.
    pub fn level(self) -> u8 {
        self.into()
    }
}

impl From<Accuracy> for u8 {
    fn from(accuracy: Accuracy) -> Self {
        match accuracy {
            Accuracy::Float32 => 1,
            Accuracy::Int8 => 4,
        }
    }
}

impl TryFrom<u8> for Accuracy {
    type Error = String;

    fn try_from(level: u8) -> Result<Self, String> {
        match level {
            1 => Ok(Self::Float32),
            4 => Ok(Self::Int8),
            _ => Err(format!("no accuracy level {level}; allowed: 1, 4")),
        }
    }
}

/// What an option asks for: the format of the linear layers, of the head or of the token embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormatChoice {
    /// This format.
    Quantized(Format),
    /// No quantization.
    Float,
}

impl From<Option<Format>> for FormatChoice {
    fn from(format: Option<Format>) -> Self {
        format.map_or(Self::Float, Self::Quantized)
    }
}

impl FormatChoice {
    /// What the head can be, by name.
    pub fn of_head() -> Vec<(&'static str, Self)> {
        Self::named(|_| true)
    }

    /// What keys and values can be, by name.
    pub fn of_kv_proj() -> Vec<(&'static str, Format)> {
        Format::ALL
            .iter()
            .map(|format| (format.name(), *format))
            .collect()
    }

    /// What the token embedding can be, by name.
    pub fn of_embedding() -> Vec<(&'static str, Self)> {
        Self::named(Format::has_row_lookup)
    }

    fn named(allowed: impl Fn(Format) -> bool) -> Vec<(&'static str, Self)> {
        let formats = Format::ALL
            .iter()
            .copied()
            .filter(|&format| allowed(format));
        let named = formats.map(|format| (format.name(), Self::Quantized(format)));
        named.chain([("float", Self::Float)]).collect()
    }

    /// The format; `None` if nothing is quantized.
    pub fn format(self) -> Option<Format> {
        match self {
            Self::Quantized(format) => Some(format),
            Self::Float => None,
        }
    }
}

fn usual_head(weights: Format) -> Option<Format> {
    match weights.sensitive() {
        Sensitive::Same => Some(weights),
        Sensitive::EightBits => Some(Format::Int8),
        Sensitive::FloatHead => None,
    }
}

fn usual_kv_proj(weights: Format) -> Option<Format> {
    (weights.sensitive() == Sensitive::EightBits).then_some(Format::Int8)
}

/// How a model is quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantization {
    /// The format of all linear layers but the head, keys and values.
    pub weights: Format,
    /// The format of layers that compute keys or values alone; `None` for that of the others.
    #[serde(default)]
    pub kv_proj: Option<Format>,
    /// The head's format; `None` if it stays float.
    pub head: Option<Format>,
    /// The token embedding's format; `None` if it stays float.
    #[serde(default)]
    pub embedding: Option<Format>,
    /// The arithmetic of operators that offer a choice.
    pub accuracy: Accuracy,
}

/// The parts of a [`Quantization`] that can be chosen apart from its weights; `None` for the usual.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Parts {
    /// What the head has.
    pub head: Option<FormatChoice>,
    /// What keys and values have.
    pub kv_proj: Option<Format>,
    /// What the token embedding has.
    pub embedding: Option<FormatChoice>,
    /// The arithmetic.
    pub accuracy: Option<Accuracy>,
}

impl Quantization {
    /// `weights` with the default head, keys and values, embedding and arithmetic.
    pub fn new(weights: Format) -> Self {
        Self {
            weights,
            kv_proj: usual_kv_proj(weights),
            head: usual_head(weights),
            embedding: None,
            accuracy: Accuracy::Float32,
        }
        .with_usual_accuracy()
    }

    /// `weights` everywhere, and in the head unless it stays float with such weights.
    pub fn uniform(weights: Format) -> Self {
        let head = (weights.sensitive() != Sensitive::FloatHead).then_some(weights);
        Self {
            kv_proj: None,
            head,
            ..Self::new(weights)
        }
    }

    /// `weights`, with other parts where they're given.
    ///
    /// # Errors
    /// If an arithmetic is given that none of the weights would use.
    pub fn with(weights: Format, parts: Parts) -> Result<Self, String> {
        let usual = Self::new(weights);
        let kv_proj = parts.kv_proj.or(usual.kv_proj);
        let found = Self {
            weights,
            kv_proj: kv_proj.filter(|format| *format != weights),
            head: parts.head.map_or(usual.head, FormatChoice::format),
            embedding: parts.embedding.and_then(FormatChoice::format),
            accuracy: Accuracy::Float32,
        };
        let found = found.with_usual_accuracy();
        match parts.accuracy {
            None => Ok(found),
            Some(_) if !found.has_accuracy() => {
                let name = weights.name();
                Err(format!(
                    "{name} is computed in float32 and has no accuracy level"
                ))
            }
            Some(accuracy) => Ok(Self { accuracy, ..found }),
        }
    }

    /// Whether the accuracy level matters.
    pub fn has_accuracy(self) -> bool {
        let products = [Some(self.weights), self.kv_proj, self.head];
        let mut products = products.into_iter().flatten();
        products.any(|format| format.operator().has_accuracy_level)
    }

    fn with_usual_accuracy(self) -> Self {
        let accuracy = match self.has_accuracy() {
            true => Accuracy::Int8,
            false => Accuracy::Float32,
        };
        Self { accuracy, ..self }
    }

    /// A unique name, which mentions only what isn't the default.
    pub fn label(self) -> String {
        let mut label = self.weights.name().to_owned();
        if self.head != usual_head(self.weights) {
            label += "-head-";
            label += self.head.map_or("float", Format::name);
        }
        if self.kv_proj != usual_kv_proj(self.weights) {
            label += "-kv-";
            label += self.kv_proj.unwrap_or(self.weights).name();
        }
        if let Some(format) = self.embedding {
            label += "-embedding-";
            label += format.name();
        }
        if self != self.with_usual_accuracy() {
            label += &format!("-accuracy-{}", self.accuracy.level());
        }
        label
    }

    /// The format of `module`; `None` if it isn't quantized.
    pub fn of(self, spec: &DecoderSpec, module: &Module) -> Option<Format> {
        match module.kind {
            ModuleKind::Linear { .. } if module.path == spec.lm_head.path => self.head,
            ModuleKind::Linear { .. } | ModuleKind::Routed { .. }
                if spec.steers_experts(&module.path) || spec.is_absorbed(&module.path) =>
            {
                None
            }
            ModuleKind::Linear { .. } if spec.makes_keys_or_values(&module.path) => {
                Some(self.kv_proj.unwrap_or(self.weights))
            }
            ModuleKind::Linear { .. } => Some(self.weights),
            // `QMoE` takes rows of whole blocks alone.
            ModuleKind::Routed { .. } => Some(
                self.weights
                    .in_whole_blocks(&spec.widths_of_experts(&module.path)),
            ),
            ModuleKind::Embedding { .. } if module.path == spec.embed_tokens.path => self.embedding,
            ModuleKind::Embedding { .. }
            | ModuleKind::Convolution { .. }
            | ModuleKind::Norm { .. }
            | ModuleKind::Parameter { .. }
            | ModuleKind::Xielu => None,
        }
    }

    /// The name of the quantized weight of `module`: that of its tensor in the checkpoint, since
    /// replicated layers share one. If a tied head and its embedding have different formats, each
    /// has its own path instead.
    pub fn key(self, spec: &DecoderSpec, module: &Module) -> String {
        let apart = self.head != self.embedding && spec.tied();
        let of =
            match apart && [&spec.lm_head.path, &spec.embed_tokens.path].contains(&&module.path) {
                true => &module.path,
                false => &module.source,
            };
        format!("{of}.weight")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_stays_float_with_nf4_alone_and_labels_say_what_differs() {
        let label = |quantization: Quantization| quantization.label();
        assert_eq!(label(Quantization::new(Format::Int4)), "4bit");
        let nf4 = Quantization::new(Format::Nf4);
        assert_eq!((label(nf4).as_str(), nf4.head), ("nf4", None));
        let other = Quantization {
            weights: Format::Int4,
            kv_proj: None,
            head: None,
            embedding: Some(Format::Int8),
            accuracy: Accuracy::Float32,
        };
        let long = "4bit-head-float-kv-4bit-embedding-8bit-accuracy-1";
        assert_eq!(label(other), long);
        let other = Quantization {
            head: Some(Format::Int8),
            accuracy: Accuracy::Int8,
            ..nf4
        };
        assert_eq!(label(other), "nf4-head-8bit");
        let head = Some(FormatChoice::Quantized(Format::Int8));
        let parts = Parts {
            head,
            ..Parts::default()
        };
        let found = Quantization::with(Format::Nf4, parts);
        assert_eq!(found, Ok(other));
        let accuracy = Some(Accuracy::Int8);
        let parts = Parts {
            accuracy,
            ..Parts::default()
        };
        assert!(Quantization::with(Format::Nf4, parts).is_err());
    }
}
