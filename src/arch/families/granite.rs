//! Granite (`model_type: "granite"`): Llama with four multipliers.
//!
//! - Embeddings times `embedding_multiplier`, attention scores times `attention_multiplier`, each sublayer's
//!   output times `residual_multiplier`, logits divided by `logits_scaling`; all 1 by default.
//!
//! Source: `modeling_granite.py`, Hugging Face Transformers.

use super::llama::{self, Differences};
use crate::arch::{DecoderSpec, EmbeddingScale, read};
use crate::json::{ConfigError, JsonObject};

/// Reads the architecture from `config.json`.
pub fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let mut spec = llama::decoder(config, &Differences::default())?;
    let number = |key| read::positive(config, key);
    let other_than_1 = |number: Option<f64>| number.filter(|&number| number != 1.0);
    spec.embedding_scale = other_than_1(number("embedding_multiplier")?).map(EmbeddingScale::All);
    spec.logit_scale = other_than_1(number("logits_scaling")?).map(|divisor| 1.0 / divisor);
    let residual_scale = other_than_1(number("residual_multiplier")?);
    let scale = number("attention_multiplier")?.unwrap_or(1.0);
    for layer in &mut spec.layers {
        layer.residual_scale = residual_scale;
        layer.attention.scale = scale;
    }
    Ok(spec)
}
