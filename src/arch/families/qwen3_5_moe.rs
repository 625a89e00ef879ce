//! Qwen3.5 with experts (`model_type: "qwen3_5_moe_text"`): Qwen3.5 whose MLPs are mixtures of
//! experts, and a shared one with a gate.
//!
//! Source: `modeling_qwen3_5_moe.py`, Hugging Face Transformers.

use super::qwen3_5::{self, Relative, Rows};
use super::{DefaultTargets, Family, Shape};
use crate::arch::experts::describe::{Experts, Routing, Shared, sizes};
use crate::arch::{DecoderSpec, read};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "qwen3_5_moe_text",
    name: "Qwen3.5 with experts",
    special: "gated delta nets in most layers, gated attention in the others; experts and a shared one with a gate",
    refused: "adapters on experts and router, except LoRA",
    targets: DefaultTargets::NONE,
    nested_defaults: Some(DEFAULTS),
    shapes: &[Shape {
        name: "qwen3.5-35b-a3b",
        copies: Some("Qwen/Qwen3.5-35B-A3B"),
        parameters: 34_660_610_688,
        config: r#"{"architectures": ["Qwen3_5MoeForCausalLM"], "attention_bias": false, "head_dim": 256,
            "hidden_act": "silu", "hidden_size": 2048, "full_attention_interval": 4,
            "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16,
            "linear_num_value_heads": 32, "linear_value_head_dim": 128,
            "max_position_embeddings": 262144, "model_type": "qwen3_5_moe_text",
            "moe_intermediate_size": 512, "num_attention_heads": 16, "num_experts": 256,
            "num_experts_per_tok": 8, "num_hidden_layers": 40, "num_key_value_heads": 2,
            "rms_norm_eps": 1e-06, "rope_parameters": { "rope_type": "default",
            "rope_theta": 10000000, "partial_rotary_factor": 0.25 },
            "shared_expert_intermediate_size": 512, "tie_word_embeddings": false,
            "vocab_size": 248320}"#,
    }],
    read: spec,
};

/// Transformers' defaults of the sizes. `intermediate_size` is that of no layer.
const DEFAULTS: &str = r#"{"vocab_size": 248320, "hidden_size": 2048, "intermediate_size": 512,
    "num_hidden_layers": 40, "num_attention_heads": 16}"#;

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let own = Relative {
        defaults: DEFAULTS,
        rows: Rows::Separate,
        key_value_heads: 2,
    };
    let mut spec = qwen3_5::decoder(config, &own)?;
    let defaults = Defaults {
        experts: 256,
        per_token: 8,
        normalised: true,
    };
    experts(config, defaults)?.replace(&mut spec, |_| true);
    Ok(spec)
}

/// Defaults of a relative's experts.
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    /// Of `num_experts`.
    pub experts: usize,
    /// Of `num_experts_per_tok`.
    pub per_token: usize,
    /// Of `norm_topk_prob`.
    pub normalised: bool,
}

/// The experts, and the shared one.
pub fn experts(config: &JsonObject, defaults: Defaults) -> Result<Experts, ConfigError> {
    let size = |key| Ok(config.optional_size(key)?.unwrap_or(512));
    let count = read::either(config, ["num_experts", "num_local_experts"]);
    let keys = [
        (count, Some(defaults.experts)),
        ("num_experts_per_tok", Some(defaults.per_token)),
    ];
    let routing = Routing::softmax(defaults.normalised);
    Ok(Experts {
        shared: Some(Shared {
            gate: Some("shared_expert_gate"),
            ..Shared::gated("shared_expert", size("shared_expert_intermediate_size")?)
        }),
        ..Experts::new(
            sizes(config, keys)?,
            size("moe_intermediate_size")?,
            routing,
        )
    })
}
