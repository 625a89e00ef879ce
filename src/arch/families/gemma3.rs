//! Gemma 3's text models (`model_type: "gemma3_text"`): Gemma 2 with three changes.
//!
//! - RMSNorm of every query and key head, before the rotary embedding.
//! - Layers with a window have their own rotary embedding: `rope_local_base_freq`, or
//!   `rope_parameters` with an entry per layer type. Five of six layers have a window, unless
//!   `layer_types` or `sliding_window_pattern` says otherwise.
//! - No soft cap on attention scores; one on logits if `final_logit_softcapping` is set.
//!
//! Source: `modeling_gemma3.py`, `configuration_gemma3.py`, Hugging Face Transformers.

use super::llama::Differences;
use super::{DefaultTargets, Family, Shape};
use super::{gemma, gemma2};
use crate::arch::rope::{self, RopeDefaults};
use crate::arch::{Activation, DecoderSpec, NormKind, NormOver, RotarySpec, windows};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "gemma3_text",
    name: "Gemma 3, text only",
    special: "norms of query and key heads, two rotary tables, sliding windows",
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
        r#"{"vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
            "num_attention_heads": 8, "tie_word_embeddings": true}"#,
    ),
    shapes: &[Shape {
        name: "gemma-3-1b",
        copies: Some("google/gemma-3-1b-pt"),
        parameters: 999_885_952,
        config: r#"{"architectures": ["Gemma3ForCausalLM"], "attention_bias": false,
            "final_logit_softcapping": null, "head_dim": 256,
            "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152,
            "intermediate_size": 6912, "max_position_embeddings": 32768,
            "model_type": "gemma3_text", "num_attention_heads": 4, "num_hidden_layers": 26,
            "num_key_value_heads": 1, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06,
            "rope_local_base_freq": 10000, "rope_scaling": null, "rope_theta": 1000000,
            "sliding_window": 512, "sliding_window_pattern": 6, "tie_word_embeddings": true,
            "vocab_size": 262144}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        activation: ("hidden_activation", Activation::GeluTanh),
        key_value_heads: Some(4),
        positions: 131_072,
        ..gemma::differences()
    };
    let mut spec = gemma::decoder(config, &differences)?;
    gemma2::put_norms_around(&mut spec);
    gemma2::scale_scores(config, &mut spec)?;
    spec.norm_queries_and_keys(["q_norm", "k_norm"], NormOver::Head, NormKind::RmsPlusOne);
    spec.logit_softcap = gemma2::cap(config, "final_logit_softcapping", None)?;

    let window = windows::size(config, Some(4096))?;
    let pattern = config.optional_size("sliding_window_pattern")?.unwrap_or(6);
    let otherwise = |layer: usize| !(layer + 1).is_multiple_of(pattern);
    let sliding = windows::sliding(config, spec.layers.len(), otherwise)?;
    windows::set(&mut spec, &sliding, window);

    let head_dim = spec.first_attention().map_or(0, |first| first.head_dim);
    let rotations = rotations(config, head_dim)?;
    windows::rotate_by_kind(&mut spec, &sliding, rotations);
    Ok(spec)
}

/// The rotary embeddings `[of layers with full attention, of layers with a window]`.
pub fn rotations(config: &JsonObject, head_dim: usize) -> Result<[RotarySpec; 2], ConfigError> {
    let parameters = config.optional_object("rope_parameters")?;
    let entry = |name: &str| match &parameters {
        Some(parameters) => parameters.optional_object(name),
        None => Ok(None),
    };
    // Transformers 5 reads YaRN's `truncate` next to the two entries, ignoring one inside them.
    let truncate = match &parameters {
        Some(parameters) => parameters.flag("truncate", true)?,
        None => true,
    };
    let full = match entry("full_attention")? {
        Some(found) => Some(found),
        None => config.optional_object("rope_scaling")?,
    };
    let full = full.map(|full| full.with("truncate", truncate.into()));
    let defaults = |theta| RopeDefaults {
        theta,
        ..RopeDefaults::default()
    };
    let full_theta = defaults((1_000_000.0, "rope_theta"));
    let local = entry("sliding_attention")?;
    let local = local.map(|local| local.with("truncate", truncate.into()));
    let local_theta = config
        .optional_number("rope_local_base_freq")?
        .unwrap_or(10_000.0);
    let theta = match &local {
        Some(local) => local.optional_number("rope_theta")?.unwrap_or(local_theta),
        None => local_theta,
    };
    if theta <= 0.0 {
        return Err(config.wrong("rope_local_base_freq", "a positive number"));
    }
    let full = rope::with_parameters(config, full, head_dim, &full_theta)?;
    let local = match local {
        Some(local) => {
            let local_defaults = defaults((theta, "rope_local_base_freq"));
            rope::with_parameters(config, Some(local), head_dim, &local_defaults)?
        }
        None => RotarySpec::plain(theta, head_dim, rope::Pairs::Halves),
    };
    Ok([full, local])
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn truncate_is_read_next_to_the_two_entries_and_not_inside_them() {
        let full = |inside: Value, around: Value| {
            let yarn = json!({
                "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0,
                "original_max_position_embeddings": 32, "truncate": inside,
            });
            let config = json!({
                "max_position_embeddings": 128,
                "rope_parameters": { "full_attention": yarn, "truncate": around },
            });
            let [full, _] = rotations(&JsonObject::of(Path::new("x"), config), 16).unwrap();
            full.inv_freq
        };
        let usual = full(json!(true), json!(true));
        assert_eq!(full(json!(false), json!(true)), usual);
        assert_ne!(full(json!(true), json!(false)), usual);
    }
}
