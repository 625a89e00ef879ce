//! StableLM (`model_type: "stablelm"`): Llama with LayerNorm.
//!
//! - A quarter of each head is rotated, unless `partial_rotary_factor` says otherwise.
//! - Biases on queries, keys and values with `use_qkv_bias`.
//! - `use_parallel_residual`: attention and MLP in parallel after one norm.
//! - `qk_layernorm`: LayerNorm of every query and key head, with a module for each.
//!
//! Source: `modeling_stablelm.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::rope::RopeDefaults;
use crate::arch::{Arrangement, DecoderSpec, NormKind, NormOver};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "stablelm",
    name: "StableLM",
    special: "LayerNorm, partial rotary positions, parallel residual, a norm for each head",
    refused: "",
    targets: DefaultTargets::alike(&["q_proj", "v_proj"]),
    nested_defaults: None,
    shapes: &[
        Shape {
            name: "stablelm-2-1.6b",
            copies: Some("stabilityai/stablelm-2-1_6b"),
            parameters: 1_644_515_328,
            config: r#"{"architectures": ["StableLmForCausalLM"], "hidden_act": "silu", "hidden_size": 2048,
            "intermediate_size": 5632, "layer_norm_eps": 1e-05, "max_position_embeddings": 4096,
            "model_type": "stablelm", "num_attention_heads": 32, "num_hidden_layers": 24,
            "num_key_value_heads": 32, "partial_rotary_factor": 0.25, "qk_layernorm": false,
            "rope_theta": 10000, "tie_word_embeddings": false, "use_parallel_residual": false,
            "use_qkv_bias": true, "vocab_size": 100352}"#,
        },
        Shape {
            name: "stablelm-2-12b",
            copies: Some("stabilityai/stablelm-2-12b"),
            parameters: 12_143_185_920,
            config: r#"{"architectures": ["StableLmForCausalLM"], "hidden_act": "silu", "hidden_size": 5120,
                "intermediate_size": 13824, "layer_norm_eps": 1e-05, "max_position_embeddings": 4096,
                "model_type": "stablelm", "num_attention_heads": 32, "num_hidden_layers": 40,
                "num_key_value_heads": 8, "partial_rotary_factor": 0.25, "qk_layernorm": true,
                "rope_theta": 10000, "tie_word_embeddings": false, "use_parallel_residual": true,
                "use_qkv_bias": false, "vocab_size": 100352}"#,
        },
    ],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        norm: NormKind::Layer,
        epsilon: ("layer_norm_eps", 1e-5),
        qkv_bias: Bias::Key("use_qkv_bias", false),
        output_bias: Bias::Never,
        mlp_bias: Bias::Never,
        key_value_heads: Some(32),
        positions: 4096,
        rope: RopeDefaults {
            partial: Some((0.25, "partial_rotary_factor")),
            ..RopeDefaults::default()
        },
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    if config.flag("use_parallel_residual", false)? {
        spec.rearrange(|norm| Arrangement::parallel(norm("input_layernorm"), None));
    }
    if config.flag("qk_layernorm", false)? {
        let names = ["q_layernorm", "k_layernorm"];
        let kind = NormKind::LayerWithoutBias;
        spec.norm_queries_and_keys(names, NormOver::HeadWithOwnModule, kind);
    }
    Ok(spec)
}
