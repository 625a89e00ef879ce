//! GLM-4 of April 2025 (`model_type: "glm4"`): GLM with norms around the sublayers.
//!
//! - `h = x + norm(attention(norm(x)))`, `y = h + norm(mlp(norm(h)))`
//!
//! Source: `modeling_glm4.py`, `configuration_glm4.py`, Hugging Face Transformers.

use super::{DefaultTargets, Family, Shape, glm, llama};
use crate::arch::{Arrangement, DecoderSpec};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "glm4",
    name: "GLM-4 (April 2025)",
    special: "GLM with norms around the sublayers",
    refused: "",
    targets: DefaultTargets::NONE,
    nested_defaults: Some(glm::NESTED_DEFAULTS),
    shapes: &[Shape {
        name: "glm-4-9b-0414",
        copies: Some("THUDM/GLM-4-9B-0414"),
        parameters: 9_400_094_720,
        config: r#"{"architectures": ["Glm4ForCausalLM"], "attention_bias": false, "head_dim": 128,
            "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 13696,
            "max_position_embeddings": 32768, "model_type": "glm4", "num_attention_heads": 32,
            "num_hidden_layers": 40, "num_key_value_heads": 2, "partial_rotary_factor": 0.5,
            "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": false,
            "vocab_size": 151552}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let mut spec = llama::decoder(config, &glm::differences())?;
    spec.fuse_gate_and_up();
    spec.rearrange(|norm| {
        Arrangement::around(
            [norm("input_layernorm"), norm("post_self_attn_layernorm")],
            [norm("post_attention_layernorm"), norm("post_mlp_layernorm")],
        )
    });
    Ok(spec)
}
