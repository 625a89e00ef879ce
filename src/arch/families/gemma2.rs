//! Gemma 2 (`model_type: "gemma2"`): Gemma with four changes.
//!
//! - A norm before and behind each sublayer: `x + norm(attention(norm(x)))`.
//! - Every second layer, the first among them, sees `sliding_window` tokens; or those that `layer_types` names.
//! - Soft caps on attention scores and on logits.
//! - Scores are multiplied by `query_pre_attn_scalar^-0.5`.
//!
//! Source: `modeling_gemma2.py`, Hugging Face Transformers.

use super::gemma;
use super::llama::Differences;
use crate::arch::{Activation, Arrangement, DecoderSpec, read, windows};
use crate::json::{ConfigError, JsonObject};

/// Reads the architecture from `config.json`.
pub fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        activation: ("hidden_activation", Activation::GeluTanh),
        key_value_heads: Some(4),
        ..gemma::differences()
    };
    let mut spec = gemma::decoder(config, &differences)?;
    put_norms_around(&mut spec);
    scale_scores(config, &mut spec)?;
    let cap = cap(config, "attn_logit_softcapping", Some(50.0))?;
    for layer in &mut spec.layers {
        layer.attention.softcap = cap;
    }
    spec.logit_softcap = self::cap(config, "final_logit_softcapping", Some(30.0))?;
    let window = windows::size(config, Some(4096))?;
    let sliding = windows::sliding(config, spec.layers.len(), |layer| layer % 2 == 0)?;
    windows::set(&mut spec, &sliding, window);
    Ok(spec)
}

/// A norm before and behind each sublayer.
pub fn put_norms_around(spec: &mut DecoderSpec) {
    spec.rearrange(|norm| {
        Arrangement::around(
            ["input_layernorm", "post_attention_layernorm"].map(&norm),
            ["pre_feedforward_layernorm", "post_feedforward_layernorm"].map(&norm),
        )
    });
}

/// `query_pre_attn_scalar^-0.5`
pub fn scale_scores(config: &JsonObject, spec: &mut DecoderSpec) -> Result<(), ConfigError> {
    let scalar = read::positive(config, "query_pre_attn_scalar")?.unwrap_or(256.0);
    for layer in &mut spec.layers {
        layer.attention.scale = scalar.powf(-0.5);
    }
    Ok(())
}

/// A soft cap: `default` where `key` is absent, none where it's null.
pub fn cap(
    config: &JsonObject,
    key: &str,
    default: Option<f64>,
) -> Result<Option<f64>, ConfigError> {
    match config.json().get(key) {
        None => Ok(default),
        Some(_) => read::positive(config, key),
    }
}
