//! Qwen3-Next (`model_type: "qwen3_next"`): Qwen3.5 with experts, and another order of the delta
//! net's rows.
//!
//! - The delta net has two projections, whose rows are grouped by key head.
//! - `decoder_sparse_step` and `mlp_only_layers` say which layers have experts.
//!
//! Source: `modeling_qwen3_next.py`, Hugging Face Transformers.

use super::qwen3_5::{self, Relative, Rows};
use super::qwen3_5_moe::{Defaults, experts};
use super::{DefaultTargets, Family, Shape};
use crate::arch::{DecoderSpec, read};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "qwen3_next",
    name: "Qwen3-Next",
    special: "gated delta nets in most layers, gated attention in the others; experts and a shared one with a gate",
    refused: "adapters on experts and router, except LoRA",
    targets: DefaultTargets::NONE,
    nested_defaults: None,
    shapes: &[Shape {
        name: "qwen3-next-80b-a3b",
        copies: Some("Qwen/Qwen3-Next-80B-A3B-Instruct"),
        parameters: 79_674_391_296,
        config: r#"{"architectures": ["Qwen3NextForCausalLM"], "attention_bias": false,
            "decoder_sparse_step": 1, "full_attention_interval": 4, "head_dim": 256,
            "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 5120,
            "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16,
            "linear_num_value_heads": 32, "linear_value_head_dim": 128,
            "max_position_embeddings": 262144, "mlp_only_layers": [], "model_type": "qwen3_next",
            "moe_intermediate_size": 512, "norm_topk_prob": true, "num_attention_heads": 16,
            "num_experts": 512, "num_experts_per_tok": 10, "num_hidden_layers": 48,
            "num_key_value_heads": 2, "partial_rotary_factor": 0.25, "rms_norm_eps": 1e-06,
            "rope_scaling": null, "rope_theta": 10000000, "shared_expert_intermediate_size": 512,
            "tie_word_embeddings": false, "vocab_size": 151936}"#,
    }],
    read: spec,
};

/// Transformers' defaults of the sizes.
const DEFAULTS: &str = r#"{"vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 5632,
    "num_hidden_layers": 48, "num_attention_heads": 16}"#;

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let own = Relative {
        defaults: DEFAULTS,
        rows: Rows::Grouped,
        key_value_heads: 2,
    };
    let mut spec = qwen3_5::decoder(config, &own)?;
    let defaults = Defaults {
        experts: 512,
        per_token: 10,
        normalised: config.flag("norm_topk_prob", true)?,
    };
    let sparse = read::sparse_layers(config)?;
    experts(config, defaults)?.replace(&mut spec, sparse);
    Ok(spec)
}
