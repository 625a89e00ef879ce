//! GLM-4 and GLM-Edge (`model_type: "glm"`): Llama with three changes.
//!
//! - Gate and up are one projection, `gate_up_proj`.
//! - Rotary pairs are neighbouring elements, in the first half of a head by default.
//! - Biases on queries, keys and values with `attention_bias`, true by default.
//!
//! Source: `modeling_glm.py`, `configuration_glm.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::DecoderSpec;
use crate::arch::rope::{Pairs, RopeDefaults};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "glm",
    name: "GLM-4 (June 2024), GLM-Edge",
    special: "fused gate, partial and interleaved rotary positions",
    refused: "",
    targets: DefaultTargets::NONE,
    nested_defaults: Some(NESTED_DEFAULTS),
    shapes: &[Shape {
        name: "glm-4-9b",
        copies: Some("THUDM/glm-4-9b-hf"),
        parameters: 9_399_951_360,
        config: r#"{"architectures": ["GlmForCausalLM"], "attention_bias": true, "head_dim": 128,
            "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 13696,
            "max_position_embeddings": 8192, "model_type": "glm", "num_attention_heads": 32,
            "num_hidden_layers": 40, "num_key_value_heads": 2, "partial_rotary_factor": 0.5,
            "rms_norm_eps": 1.5625e-07, "rope_theta": 10000.0, "tie_word_embeddings": false,
            "vocab_size": 151552}"#,
    }],
    read: spec,
};

/// Defaults of both GLM and GLM 4.
pub(super) const NESTED_DEFAULTS: &str = r#"{"vocab_size": 151552, "hidden_size": 4096,
    "intermediate_size": 13696, "num_hidden_layers": 40, "num_attention_heads": 32}"#;

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let mut spec = llama::decoder(config, &differences())?;
    spec.fuse_gate_and_up();
    Ok(spec)
}

/// How the configuration differs from Llama's.
pub(super) fn differences() -> Differences {
    Differences {
        epsilon: ("rms_norm_eps", 1.5625e-7),
        qkv_bias: Bias::Key("attention_bias", true),
        output_bias: Bias::Never,
        mlp_bias: Bias::Never,
        key_value_heads: Some(2),
        head_dim: Some(128),
        positions: 131_072,
        rope: RopeDefaults {
            partial: Some((0.5, "partial_rotary_factor")),
            pairs: Pairs::Neighbours,
            ..RopeDefaults::default()
        },
        ..Differences::default()
    }
}
