//! Gemma 2 (`model_type: "gemma2"`): Gemma with four changes.
//!
//! - A norm before and after each sublayer: `x + norm(attention(norm(x)))`.
//! - Every second layer, beginning with the first, has a window of `sliding_window` tokens; or the
//!   layers that `layer_types` names.
//! - Soft caps on attention scores and on logits.
//! - Scores are multiplied by `query_pre_attn_scalar^-0.5`.
//!
//! Source: `modeling_gemma2.py`, Hugging Face Transformers.

use super::gemma;
use super::llama::Differences;
use super::{DefaultTargets, Family, Shape};
use crate::arch::{Activation, Arrangement, DecoderSpec, read, windows};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "gemma2",
    name: "Gemma 2",
    special: "norms around the sublayers, soft caps, alternating sliding windows",
    refused: "`use_bidirectional_attention`",
    targets: DefaultTargets {
        adalora: &["q_proj", "v_proj"],
        beft: &["v_proj"],
        ia3: &["q_proj", "v_proj", "down_proj"],
        ia3_feedforward: &["down_proj"],
        ln_tuning: &[
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
            "norm",
        ],
        osf: &[
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "down_proj",
            "up_proj",
        ],
        ..DefaultTargets::alike(&["q_proj", "v_proj"])
    },
    nested_defaults: Some(
        r#"{"vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
            "num_attention_heads": 8, "tie_word_embeddings": true}"#,
    ),
    shapes: &[Shape {
        name: "gemma-2-2b",
        copies: Some("google/gemma-2-2b"),
        parameters: 2_614_341_888,
        config: r#"{"architectures": ["Gemma2ForCausalLM"], "attention_bias": false,
            "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "head_dim": 256,
            "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304,
            "intermediate_size": 9216, "max_position_embeddings": 8192, "model_type": "gemma2",
            "num_attention_heads": 8, "num_hidden_layers": 26, "num_key_value_heads": 4,
            "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_theta": 10000.0,
            "sliding_window": 4096, "tie_word_embeddings": true, "vocab_size": 256000}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        activation: ("hidden_activation", Activation::GeluTanh),
        key_value_heads: Some(4),
        ..gemma::differences()
    };
    let mut spec = gemma::decoder(config, &differences)?;
    put_norms_around(&mut spec);
    scale_scores(config, &mut spec)?;
    let cap = cap(config, "attn_logit_softcapping", Some(50.0))?;
    for attention in spec.attentions_mut() {
        attention.softcap = cap;
    }
    spec.logit_softcap = self::cap(config, "final_logit_softcapping", Some(30.0))?;
    let window = windows::size(config, Some(4096))?;
    let sliding = windows::sliding(config, spec.layers.len(), |layer| layer % 2 == 0)?;
    windows::set(&mut spec, &sliding, window);
    Ok(spec)
}

/// Puts a norm before and after each sublayer.
pub fn put_norms_around(spec: &mut DecoderSpec) {
    spec.rearrange(|norm| {
        Arrangement::around(
            ["input_layernorm", "post_attention_layernorm"].map(&norm),
            ["pre_feedforward_layernorm", "post_feedforward_layernorm"].map(&norm),
        )
    });
}

/// Sets the scale of scores to `query_pre_attn_scalar^-0.5`.
pub fn scale_scores(config: &JsonObject, spec: &mut DecoderSpec) -> Result<(), ConfigError> {
    let scalar = read::positive(config, "query_pre_attn_scalar")?.unwrap_or(256.0);
    for attention in spec.attentions_mut() {
        attention.scale = scalar.powf(-0.5);
    }
    Ok(())
}

/// Reads a soft cap: `default` if `key` is absent, `None` if it's null.
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
