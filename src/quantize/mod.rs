//! Weights of few bits: how they are quantized, and the file that they're kept in.
//!
//! Linear layers are quantized, those of experts too; routers, which decide by small differences and are small, are not, as
//! usual, and neither are norms and biases. The token embedding is if it's asked for: a step reads a single row of it, so that
//! few bits save memory as far as prompts touch the table, and no time, and bitsandbytes keeps it. A tied head shares its codes where both have the same form,
//! and else has a copy of its own.
//! What a base comes to is written once, beside its prepared folders, and shared by all of them ([`QuantizedFile`]).

mod encoding;
mod file;
mod formats;
mod operator;

use serde::{Deserialize, Serialize};

pub use encoding::{Encoding, QuantizedWeight};
pub use file::{Base, QuantizeError, QuantizedFile, QuantizedTypes, joined_plans, write_matrix};
pub use formats::{Format, Keys, Quantized, Switch, Tolerance};
pub use operator::Operator;

use crate::arch::{DecoderSpec, Module, ModuleKind};

/// The arithmetic of `MatMulNBits`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum Accuracy {
    /// Inputs are rounded to 8 bits in blocks too, and products are summed as whole numbers: 4.
    Int8,
    /// Weights are widened to float32: 1. Several times slower.
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
pub enum Part {
    /// This format.
    Quantized(Format),
    /// No quantization.
    Float,
}

impl From<Option<Format>> for Part {
    fn from(format: Option<Format>) -> Self {
        format.map_or(Self::Float, Self::Quantized)
    }
}

impl Part {
    /// What the head can be, by name.
    pub fn of_head() -> Vec<(&'static str, Self)> {
        Self::named(|_| true)
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
    weights.quantizes_head().then_some(weights)
}

/// Whether weights of these forms have an arithmetic that can be chosen.
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
    /// Of all linear layers but the head.
    pub weights: Format,
    /// Of the head; absent where it stays as it is.
    pub head: Option<Format>,
    /// Of the token embedding; absent where it stays as it is.
    #[serde(default)]
    pub embedding: Option<Format>,
    /// The arithmetic; `MatMulBnb4` has float32 only.
    pub accuracy: Accuracy,
}

impl Quantization {
    /// `weights` with what goes with it unless asked otherwise.
    pub fn new(weights: Format) -> Self {
        let head = usual_head(weights);
        Self {
            weights,
            head,
            embedding: None,
            accuracy: usual_accuracy(weights, head),
        }
    }

    /// `weights`, with another head, embedding or arithmetic where these are given.
    ///
    /// # Errors
    /// If an arithmetic is asked for that no weight of this model would use.
    pub fn with(
        weights: Format,
        head: Option<Part>,
        embedding: Option<Part>,
        accuracy: Option<Accuracy>,
    ) -> Result<Self, String> {
        let head = head.map_or(usual_head(weights), Part::format);
        if accuracy.is_some() && !has_accuracy(weights, head) {
            let name = weights.name();
            return Err(format!(
                "{name} is computed in float32 and has no accuracy level"
            ));
        }
        Ok(Self {
            weights,
            head,
            embedding: embedding.and_then(Part::format),
            accuracy: accuracy.unwrap_or(usual_accuracy(weights, head)),
        })
    }

    /// Whether a weight has a form whose arithmetic can be chosen.
    pub fn has_accuracy(self) -> bool {
        has_accuracy(self.weights, self.head)
    }

    /// A name that differs from every other quantization's, short where it's the usual one.
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

    /// What `module` of `spec` is quantized to, if it is.
    pub fn of(self, spec: &DecoderSpec, module: &Module) -> Option<Format> {
        match module.kind {
            ModuleKind::Linear { .. } if module.path == spec.lm_head.path => self.head,
            ModuleKind::Routed { .. } if spec.is_router(&module.path) => None,
            ModuleKind::Linear { .. } | ModuleKind::Routed { .. } => Some(self.weights),
            ModuleKind::Embedding { .. } if module.path == spec.embed_tokens.path => self.embedding,
            ModuleKind::Embedding { .. } | ModuleKind::Norm { .. } => None,
        }
    }

    /// What the quantized weight of `module` is called: by its tensor in the checkpoint, since replicated layers share one;
    /// but by its own place where a tied head and its embedding have different forms, whichever of them the checkpoint has.
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
        let part = Some(Part::Quantized(Format::Int8));
        let found = Quantization::with(Format::Nf4, part, None, None);
        assert_eq!(found, Ok(other));
        assert!(Quantization::with(Format::Nf4, None, part, Some(Accuracy::Int8)).is_err());
    }
}
