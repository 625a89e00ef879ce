//! LFM2's mixtures of experts (`model_type: "lfm2_moe"`): LFM2 with experts.
//!
//! - Layers from `num_dense_layers` on have experts, the others an MLP of `intermediate_size`.
//! - A token's experts are those with the highest `sigmoid(z)`, with `use_expert_bias` those with the
//!   highest `sigmoid(z) + expert_bias`. Their weights are `sigmoid(z)`, divided by their sum with
//!   `norm_topk_prob`, times `routed_scaling_factor`.
//!
//! Source: `modeling_lfm2_moe.py`, `conversion_mapping.py`, Hugging Face Transformers.

use super::{DefaultTargets, Family, Shape, lfm2};
use crate::arch::experts::describe::{Correction, Experts, Routing, sizes};
use crate::arch::{DecoderSpec, Normalised, Scores, read};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "lfm2_moe",
    name: "LFM2 with experts",
    special: "short convolutions in most layers; experts chosen with a correction",
    refused: "adapters on experts and router, except LoRA",
    targets: DefaultTargets::NONE,
    nested_defaults: None,
    shapes: &[Shape {
        name: "lfm2-8b-a1b",
        copies: Some("LiquidAI/LFM2-8B-A1B"),
        parameters: 8_339_930_560,
        config: r#"{"architectures": ["Lfm2MoeForCausalLM"], "conv_L_cache": 3, "conv_bias": false,
            "hidden_size": 2048, "intermediate_size": 7168, "layer_types": ["conv", "conv",
            "full_attention", "conv", "conv", "conv", "full_attention", "conv", "conv", "conv",
            "full_attention", "conv", "conv", "conv", "full_attention", "conv", "conv", "conv",
            "full_attention", "conv", "conv", "full_attention", "conv", "conv"],
            "max_position_embeddings": 128000, "model_type": "lfm2_moe",
            "moe_intermediate_size": 1792, "norm_eps": 1e-05, "norm_topk_prob": true,
            "num_attention_heads": 32, "num_dense_layers": 2, "num_experts": 32,
            "num_experts_per_tok": 4, "num_hidden_layers": 24, "num_key_value_heads": 8,
            "rope_theta": 1000000.0, "routed_scaling_factor": 1.0, "use_expert_bias": true,
            "vocab_size": 65536}"#,
    }],
    read: spec,
};

/// Transformers' defaults of the sizes.
const DEFAULTS: &str = r#"{"vocab_size": 65536, "hidden_size": 2048, "intermediate_size": 7168,
    "num_hidden_layers": 32, "num_attention_heads": 32}"#;

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let as_given = config.with("block_auto_adjust_ff_dim", false.into());
    let mut spec = lfm2::decoder(&as_given, DEFAULTS)?;
    let keys = [("num_experts", Some(32)), ("num_experts_per_tok", Some(4))];
    let scale = config.optional_number("routed_scaling_factor")?;
    let corrected = config.flag("use_expert_bias", true)?;
    let routing = Routing {
        scores: Scores::Sigmoid,
        correction: corrected.then_some(Correction {
            module: ["", ""],
            name: "expert_bias",
            is_row: false,
        }),
        normalised: match config.flag("norm_topk_prob", true)? {
            true => Normalised::SumPlus(1e-6),
            false => Normalised::No,
        },
        scale: scale.filter(|&scale| scale != 1.0),
        ..Routing::SOFTMAX
    };
    let size = config.optional_size("moe_intermediate_size")?;
    let experts = Experts {
        names: ["w1", "w3", "w2"],
        block: ["feed_forward", "feed_forward"],
        ..Experts::new(sizes(config, keys)?, size.unwrap_or(1792), routing)
    };
    let dense = read::count(config, "num_dense_layers", 2)?;
    experts.replace(&mut spec, |layer| layer >= dense);
    Ok(spec)
}
