//! Gemma (`model_type: "gemma"`): Llama with other norms and scaled embeddings.
//!
//! - RMSNorm with `1 + weight`.
//! - The embedding's rows are multiplied by `sqrt(hidden_size)`.
//! - GELU with tanh, also where `hidden_act` is `gelu`; `head_dim` is 256 by default.
//!
//! Source: `modeling_gemma.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use crate::arch::{Activation, DecoderSpec, EmbeddingScale, NormKind, read};
use crate::json::{ConfigError, JsonObject};

/// Reads the architecture from `config.json`.
pub fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        key_value_heads: Some(16),
        ..differences()
    };
    let mut spec = decoder(config, &differences)?;
    if config.optional_text("hidden_act")? == Some("gelu") {
        spec.set_activation(Activation::GeluTanh);
    }
    Ok(spec)
}

/// What all Gemmas have in common.
pub fn differences() -> Differences {
    Differences {
        norm: NormKind::RmsPlusOne,
        mlp_bias: Bias::Never,
        tied: true,
        activation: ("hidden_act", Activation::GeluTanh),
        head_dim: Some(256),
        positions: 8192,
        ..Differences::default()
    }
}

/// Reads a decoder with scaled embeddings.
pub fn decoder(config: &JsonObject, differences: &Differences) -> Result<DecoderSpec, ConfigError> {
    let reason = "only causal attention generates text";
    read::must_be_off(config, "use_bidirectional_attention", reason)?;
    let mut spec = llama::decoder(config, differences)?;
    let scale = (spec.hidden_size as f64).sqrt();
    spec.embedding_scale = Some(EmbeddingScale::Rows(scale));
    Ok(spec)
}
