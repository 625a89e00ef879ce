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
    Base, QuantizeError, QuantizedFile, QuantizedNames, QuantizedTypes, joined_plans, write_matrix,
    write_rows,
};
pub use formats::{Format, Keys, Quantized, Switch, Tolerance};
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

    /// What the token embedding can be, by name.
    pub fn of_embedding() -> Vec<(&'static str, Self)> {
        Self::named(Format::has_row_lookup)
    }

    fn named(allowed: impl Fn(Format) -> bool) -> Vec<(&'static str, Self)> {
        let formats = Format::NAMED.into_iter().filter(|&format| allowed(format));
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
    weights.quantizes_head().then_some(weights)
}

/// Whether the accuracy level matters for weights and a head of these formats.
fn has_accuracy(weights: Format, head: Option<Format>) -> bool {
    let mut products = [Some(weights), head].into_iter().flatten();
    products.any(|format| format.operator().has_accuracy_level)
}

fn usual_accuracy(weights: Format, head: Option<Format>) -> Accuracy {
    match has_accuracy(weights, head) {
        true => Accuracy::Int8,
        false => Accuracy::Float32,
    }
}

/// How a model is quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantization {
    /// The format of all linear layers but the head.
    pub weights: Format,
    /// The head's format; `None` if it stays float.
    pub head: Option<Format>,
    /// The token embedding's format; `None` if it stays float.
    #[serde(default)]
    pub embedding: Option<Format>,
    /// The arithmetic of operators that offer a choice.
    pub accuracy: Accuracy,
}

impl Quantization {
    /// `weights` with the default head, embedding and arithmetic.
    pub fn new(weights: Format) -> Self {
        let head = usual_head(weights);
        Self {
            weights,
            head,
            embedding: None,
            accuracy: usual_accuracy(weights, head),
        }
    }

    /// `weights`, with another head, embedding or arithmetic if given.
    ///
    /// # Errors
    /// If an arithmetic is given that none of the weights would use.
    pub fn with(
        weights: Format,
        head: Option<FormatChoice>,
        embedding: Option<FormatChoice>,
        accuracy: Option<Accuracy>,
    ) -> Result<Self, String> {
        let head = head.map_or(usual_head(weights), FormatChoice::format);
        if accuracy.is_some() && !has_accuracy(weights, head) {
            let name = weights.name();
            return Err(format!(
                "{name} is computed in float32 and has no accuracy level"
            ));
        }
        Ok(Self {
            weights,
            head,
            embedding: embedding.and_then(FormatChoice::format),
            accuracy: accuracy.unwrap_or(usual_accuracy(weights, head)),
        })
    }

    /// Whether the accuracy level matters.
    pub fn has_accuracy(self) -> bool {
        has_accuracy(self.weights, self.head)
    }

    /// A unique name, which mentions only what isn't the default.
    pub fn label(self) -> String {
        let mut label = self.weights.name().to_owned();
        if self.head != usual_head(self.weights) {
            label += "-head-";
            label += self.head.map_or("float", Format::name);
        }
        if let Some(format) = self.embedding {
            label += "-embedding-";
            label += format.name();
        }
        if self.accuracy != usual_accuracy(self.weights, self.head) {
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
            ModuleKind::Linear { .. } | ModuleKind::Routed { .. } => Some(self.weights),
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
            head: None,
            embedding: Some(Format::Int8),
            accuracy: Accuracy::Float32,
        };
        let long = "4bit-head-float-embedding-8bit-accuracy-1";
        assert_eq!(label(other), long);
        let other = Quantization {
            head: Some(Format::Int8),
            accuracy: Accuracy::Int8,
            ..nf4
        };
        assert_eq!(label(other), "nf4-head-8bit");
        let part = Some(FormatChoice::Quantized(Format::Int8));
        let found = Quantization::with(Format::Nf4, part, None, None);
        assert_eq!(found, Ok(other));
        assert!(Quantization::with(Format::Nf4, None, part, Some(Accuracy::Int8)).is_err());
    }
}
