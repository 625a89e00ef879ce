//! Ministral 3 (`model_type: "ministral3"`): Llama with two changes.
//!
//! - Queries are multiplied by `1 + llama_4_scaling_beta * ln(1 + floor(position / original))`,
//!   where `original` is `original_max_position_embeddings`. Both are parameters of the rotary
//!   embedding, YaRN by default.
//! - A window of `sliding_window` tokens in every layer, unless it's null.
//!
//! Source: `modeling_ministral3.py`, `configuration_ministral3.py`, Hugging Face Transformers.

use serde_json::json;

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::{DecoderSpec, QueryScale, windows};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "ministral3",
    name: "Ministral 3",
    special: "queries scaled by their position",
    refused: "",
    targets: DefaultTargets::NONE,
    nested_defaults: Some(
        r#"{"vocab_size": 131072, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 34,
            "num_attention_heads": 32}"#,
    ),
    shapes: &[Shape {
        name: "ministral-3-3b",
        copies: Some("mistralai/Ministral-3-3B-Base-2512"),
        parameters: 3_429_006_336,
        config: r#"{"architectures": ["Ministral3ForCausalLM"], "head_dim": 128, "hidden_act": "silu",
            "hidden_size": 3072, "intermediate_size": 9216, "max_position_embeddings": 262144,
            "model_type": "ministral3", "num_attention_heads": 32, "num_hidden_layers": 26,
            "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_parameters": {
            "beta_fast": 32.0, "beta_slow": 1.0, "factor": 16.0, "llama_4_scaling_beta": 0.1,
            "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 16384,
            "rope_theta": 1000000.0, "rope_type": "yarn"}, "sliding_window": null,
            "tie_word_embeddings": true, "vocab_size": 131072}"#,
    }],
    read: spec,
};

/// The default of `max_position_embeddings`.
const POSITIONS: usize = 262_144;

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let config = &with_default_rotation(config);
    let differences = Differences {
        epsilon: ("rms_norm_eps", 1e-5),
        qkv_bias: Bias::Never,
        output_bias: Bias::Never,
        mlp_bias: Bias::Never,
        key_value_heads: Some(8),
        head_dim: Some(128),
        positions: POSITIONS,
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    let scale = query_scale(config)?;
    for attention in spec.attentions_mut() {
        attention.query_scale = Some(scale);
    }
    let window = windows::size(config, None)?;
    let every = vec![true; spec.layers.len()];
    windows::set(&mut spec, &every, window);
    Ok(spec)
}

/// `config` with the default parameters of the rotary embedding, if it has none.
fn with_default_rotation(config: &JsonObject) -> JsonObject {
    let has = |key: &str| config.get(key).is_some();
    if has("rope_parameters") || has("rope_scaling") {
        return config.clone();
    }
    let parameters = json!({
        "rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "beta_fast": 32.0, "beta_slow": 1.0,
        "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 16384,
        "llama_4_scaling_beta": 0.1,
    });
    config.with("rope_parameters", parameters)
}

fn query_scale(config: &JsonObject) -> Result<QueryScale, ConfigError> {
    let parameters = match config.optional_object("rope_parameters")? {
        Some(parameters) => Some(parameters),
        None => config.optional_object("rope_scaling")?,
    };
    let Some(parameters) = parameters else {
        return Err(config.missing("rope_parameters", "the rotary embedding's parameters"));
    };
    let beta = parameters.number("llama_4_scaling_beta")?;
    let original = parameters.optional_size("original_max_position_embeddings")?;
    let scaled = ["rope_type", "type"].iter().any(|key| {
        let kind = parameters.get(key).and_then(|kind| kind.as_str());
        kind.is_some_and(|kind| ["llama3", "yarn", "longrope"].contains(&kind))
    });
    let original = match original {
        Some(original) => original,
        None if scaled => config
            .optional_size("max_position_embeddings")?
            .unwrap_or(POSITIONS),
        None => parameters.size("original_max_position_embeddings")?,
    };
    Ok(QueryScale {
        beta,
        original,
        first: 0,
    })
}
