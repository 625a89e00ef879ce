//! Granite (`model_type: "granite"`): Llama with four multipliers.
//!
//! - Embeddings times `embedding_multiplier`, attention scores times `attention_multiplier`, each
//!   sublayer's output times `residual_multiplier`, logits divided by `logits_scaling`; all 1 by
//!   default.
//!
//! Source: `modeling_granite.py`, Hugging Face Transformers.

use super::llama::{self, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::{DecoderSpec, EmbeddingScale, read};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "granite",
    name: "Granite 3",
    special: "multipliers on embeddings, scores, residuals and logits",
    refused: "",
    targets: DefaultTargets::NONE,
    nested_defaults: Some(
        r#"{"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32}"#,
    ),
    shapes: &[Shape {
        name: "granite-3.1-2b",
        copies: Some("ibm-granite/granite-3.1-2b-base"),
        parameters: 2_533_531_648,
        config: r#"{"architectures": ["GraniteForCausalLM"], "attention_bias": false,
            "attention_multiplier": 0.015625, "embedding_multiplier": 12.0,
            "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 8192,
            "logits_scaling": 8.0, "max_position_embeddings": 131072, "mlp_bias": false,
            "model_type": "granite", "num_attention_heads": 32, "num_hidden_layers": 40,
            "num_key_value_heads": 8, "residual_multiplier": 0.22, "rms_norm_eps": 1e-05,
            "rope_theta": 5000000.0, "tie_word_embeddings": true, "vocab_size": 49155}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let mut spec = llama::decoder(config, &Differences::default())?;
    set_multipliers(config, &mut spec)?;
    Ok(spec)
}

/// Reads the four multipliers.
pub fn set_multipliers(config: &JsonObject, spec: &mut DecoderSpec) -> Result<(), ConfigError> {
    let number = |key| read::positive(config, key);
    let other_than_1 = |number: Option<f64>| number.filter(|&number| number != 1.0);
    spec.embedding_scale = other_than_1(number("embedding_multiplier")?).map(EmbeddingScale::All);
    spec.logit_scale = other_than_1(number("logits_scaling")?).map(|divisor| 1.0 / divisor);
    let residual_scale = other_than_1(number("residual_multiplier")?);
    let scale = number("attention_multiplier")?.unwrap_or(1.0);
    for layer in &mut spec.layers {
        layer.residual_scale = residual_scale;
    }
    for attention in spec.attentions_mut() {
        attention.scale = scale;
    }
    Ok(())
}
