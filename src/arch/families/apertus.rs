//! Apertus (`model_type: "apertus"`): Llama with three changes.
//!
//! - A plain MLP: `down_proj(xielu(up_proj(x)))`, with learned parameters of the activation.
//! - RMSNorm of every query and key head, before the rotary embedding.
//! - The rotary embedding is `llama3` with base 12,000,000 by default.
//!
//! Source: `modeling_apertus.py`, `configuration_apertus.py`, Hugging Face Transformers.

use serde_json::json;

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::rope::RopeDefaults;
use crate::arch::{Activation, Arrangement, DecoderSpec, NormKind, NormOver};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "apertus",
    name: "Apertus",
    special: "plain MLP with xIELU, norms of query and key heads",
    refused: "",
    targets: DefaultTargets::NONE,
    nested_defaults: Some(
        r#"{"vocab_size": 131072, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32}"#,
    ),
    shapes: &[Shape {
        name: "apertus-8b",
        copies: Some("swiss-ai/Apertus-8B-2509"),
        parameters: 8_053_338_176,
        config: r#"{"architectures": ["ApertusForCausalLM"], "attention_bias": false,
            "hidden_act": "xielu", "hidden_size": 4096, "intermediate_size": 21504,
            "max_position_embeddings": 65536, "model_type": "apertus", "num_attention_heads": 32,
            "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
            "rope_scaling": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3"},
            "rope_theta": 12000000.0, "tie_word_embeddings": false, "vocab_size": 131072}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        epsilon: ("rms_norm_eps", 1e-5),
        mlp_bias: Bias::Never,
        positions: 65_536,
        rope: RopeDefaults {
            theta: (12_000_000.0, "rope_theta"),
            ..RopeDefaults::default()
        },
        ..Differences::default()
    };
    // This activation has parameters, so it isn't one of those that every family may have.
    let has_xielu = matches!(config.optional_text("hidden_act")?, None | Some("xielu"));
    let config = match has_xielu {
        true => config.with("hidden_act", json!(null)),
        false => config.clone(),
    };
    let mut spec = llama::decoder(&with_default_rotation(config), &differences)?;
    spec.make_mlps_plain(["mlp.up_proj", "mlp.down_proj"]);
    if has_xielu {
        spec.set_activation(Activation::Xielu);
    }
    spec.rearrange(|norm| {
        Arrangement::before(norm("attention_layernorm"), norm("feedforward_layernorm"))
    });
    spec.norm_queries_and_keys(["q_norm", "k_norm"], NormOver::Head, NormKind::Rms);
    Ok(spec)
}

/// `config` with the default parameters of the rotary embedding, if it has none. They contain the
/// base, so that a `rope_theta` next to them has no effect.
fn with_default_rotation(config: JsonObject) -> JsonObject {
    let has = |key: &str| config.get(key).is_some();
    if has("rope_parameters") || has("rope_scaling") {
        return config;
    }
    let parameters = json!({
        "rope_type": "llama3", "rope_theta": 12e6, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    });
    config.with("rope_parameters", parameters)
}
