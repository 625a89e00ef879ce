//! Architectures as data: `config.json` becomes a [`DecoderSpec`], and one builder reads it.
//!
//! A new architecture is a new value; a new operator is a new block in `graph` and a variant here.

mod llama;
mod opt;
mod rope;
mod spec;

pub use rope::RotarySpec;
pub use spec::{
    Activation, Attention, Declared, DecoderSpec, Embedding, Layer, Linear, Mlp, Module,
    ModuleKind, Norm, NormKind, NormPlacement, Positions,
};

use crate::json_object::{ConfigError, JsonObject};

/// No model has more layers; each is described before the weights are looked at.
const MOST_LAYERS: usize = 1 << 12;

/// Values of `model_type` that are supported.
pub const MODEL_TYPES: [&str; 2] = ["llama", "opt"];

/// Reads a base model's architecture from its `config.json`.
///
/// # Errors
/// If the model type isn't supported, or a key is missing, of a wrong type, or asks for arithmetic
/// that isn't implemented.
pub fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    match config.optional_text("model_type")? {
        Some("llama") => llama::spec(config),
        Some("opt") => opt::spec(config),
        Some(other) => Err(ConfigError::Unsupported {
            path: config.path().to_owned(),
            key: "model_type",
            found: other.to_owned(),
            supported: MODEL_TYPES.join(", "),
        }),
        None => Err(config.missing("model_type", &format!("one of {}", MODEL_TYPES.join(", ")))),
    }
}
