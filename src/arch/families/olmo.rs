//! OLMo (`model_type: "olmo"`): Llama with other norms.
//!
//! - LayerNorm without parameters.
//! - Queries, keys and values are clamped to ± `clip_qkv`.
//!
//! Source: `modeling_olmo.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::{DecoderSpec, NormKind, read};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "olmo",
    name: "OLMo",
    special: "LayerNorm without parameters, `clip_qkv`",
    refused: "",
    targets: DefaultTargets::NONE,
    nested_defaults: None,
    shapes: &[Shape {
        name: "olmo-1b",
        copies: Some("allenai/OLMo-1B-hf"),
        parameters: 1_176_764_416,
        config: r#"{"architectures": ["OlmoForCausalLM"], "attention_bias": false, "clip_qkv": null,
            "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 8192,
            "max_position_embeddings": 2048, "model_type": "olmo", "num_attention_heads": 16,
            "num_hidden_layers": 16, "num_key_value_heads": 16, "rope_theta": 10000.0,
            "tie_word_embeddings": true, "vocab_size": 50304}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        norm: NormKind::LayerWithoutParameters,
        epsilon: ("", 1e-5),
        mlp_bias: Bias::Never,
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    let clip = read::positive(config, "clip_qkv")?;
    for attention in spec.attentions_mut() {
        attention.clip = clip;
    }
    Ok(spec)
}
