//! DeepSeek-V2 and DeepSeek-Coder-V2 (`model_type: "deepseek_v2"`): Llama with latent attention and
//! experts.
//!
//! - Latent attention ([`latent`](crate::arch::latent)); rotary pairs are neighbouring elements.
//! - Layers from `first_k_dense_replace` on have `n_routed_experts` experts and `n_shared_experts`
//!   that every token uses, in one MLP.
//! - The router's weights are a softmax over all experts, times `routed_scaling_factor`. With the
//!   `topk_method` `group_limited_greedy`, the choice is limited to the `topk_group` groups with the
//!   highest scores.
//!
//! Source: `modeling_deepseek_v2.py`, `configuration_deepseek_v2.py`, Hugging Face Transformers.

use super::llama::{Bias, Differences};
use super::{DefaultTargets, Family, Shape, deepseek_v3};
use crate::arch::experts::describe::{Experts, Routing, Shared, sizes};
use crate::arch::experts::{GroupScore, Groups};
use crate::arch::latent::LatentDefaults;
use crate::arch::{DecoderSpec, read};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "deepseek_v2",
    name: "DeepSeek-V2, DeepSeek-Coder-V2",
    special: "latent attention; experts chosen in groups",
    refused: "adapters on experts and router, except LoRA; prefixes; other `topk_method`s",
    targets: DefaultTargets::NONE,
    nested_defaults: Some(
        r#"{"vocab_size": 102400, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32}"#,
    ),
    shapes: &[
        // Copies no model: four layers of DeepSeek-V2-Lite, all like its first one, with a vocabulary
        // that's smaller by as much.
        Shape {
            name: "deepseek-v2-391m",
            copies: None,
            parameters: 391_139_328,
            config: r#"{"architectures": ["DeepseekV2ForCausalLM"], "attention_bias": false,
                "first_k_dense_replace": 4, "hidden_act": "silu", "hidden_size": 2048,
                "intermediate_size": 10944, "kv_lora_rank": 512, "max_position_embeddings": 163840,
                "model_type": "deepseek_v2", "moe_intermediate_size": 1408, "n_group": 1,
                "n_routed_experts": 64, "n_shared_experts": 2, "norm_topk_prob": false,
                "num_attention_heads": 16, "num_experts_per_tok": 6, "num_hidden_layers": 4,
                "num_key_value_heads": 16, "q_lora_rank": null, "qk_nope_head_dim": 128,
                "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06, "rope_scaling": {"beta_fast": 32,
                "beta_slow": 1, "factor": 40, "mscale": 0.707, "mscale_all_dim": 0.707,
                "original_max_position_embeddings": 4096, "type": "yarn"}, "rope_theta": 10000,
                "routed_scaling_factor": 1.0, "tie_word_embeddings": false, "topk_group": 1,
                "topk_method": "greedy", "v_head_dim": 128, "vocab_size": 16384}"#,
        },
        Shape {
            name: "deepseek-v2-lite",
            copies: Some("deepseek-ai/DeepSeek-V2-Lite"),
            parameters: 15_706_484_224,
            config: r#"{"architectures": ["DeepseekV2ForCausalLM"], "attention_bias": false,
                "first_k_dense_replace": 1, "hidden_act": "silu", "hidden_size": 2048,
                "intermediate_size": 10944, "kv_lora_rank": 512, "max_position_embeddings": 163840,
                "model_type": "deepseek_v2", "moe_intermediate_size": 1408, "n_group": 1,
                "n_routed_experts": 64, "n_shared_experts": 2, "norm_topk_prob": false,
                "num_attention_heads": 16, "num_experts_per_tok": 6, "num_hidden_layers": 27,
                "num_key_value_heads": 16, "q_lora_rank": null, "qk_nope_head_dim": 128,
                "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06, "rope_scaling": {"beta_fast": 32,
                "beta_slow": 1, "factor": 40, "mscale": 0.707, "mscale_all_dim": 0.707,
                "original_max_position_embeddings": 4096, "type": "yarn"}, "rope_theta": 10000,
                "routed_scaling_factor": 1.0, "tie_word_embeddings": false, "topk_group": 1,
                "topk_method": "greedy", "v_head_dim": 128, "vocab_size": 102400}"#,
        },
    ],
    read: spec,
};

const LATENT: LatentDefaults = LatentDefaults {
    query_rank: 1536,
    widths: [128, 64, 128],
    reads_pairs: false,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        qkv_bias: Bias::Never,
        output_bias: Bias::Never,
        ..Differences::default()
    };
    let mut spec = deepseek_v3::decoder(config, &differences, &LATENT)?;
    let count = read::either(config, ["n_routed_experts", "num_experts"]);
    let sizes = sizes(config, [(count, Some(64)), ("num_experts_per_tok", None)])?;
    let groups = match config.optional_text("topk_method")? {
        None | Some("greedy") => None,
        Some("group_limited_greedy") => Groups::read(config, sizes, [1, 1], GroupScore::Highest)?,
        Some(_) => {
            let expected = "`greedy` or `group_limited_greedy`";
            return Err(config.wrong("topk_method", expected));
        }
    };
    let scale = config.optional_number("routed_scaling_factor")?;
    let routing = Routing {
        groups,
        scale: scale.filter(|&scale| scale != 1.0),
        in_float32: true,
        ..Routing::SOFTMAX
    };
    let size = config.optional_size("moe_intermediate_size")?;
    let size = size.unwrap_or(1407);
    let shared = config.optional_size("n_shared_experts")?.unwrap_or(2);
    let experts = Experts {
        shared: Some(Shared {
            bias: config.flag("mlp_bias", false)?,
            ..Shared::gated("shared_experts", shared * size)
        }),
        ..Experts::new(sizes, size, routing)
    };
    let dense = read::count(config, "first_k_dense_replace", 0)?;
    experts.replace(&mut spec, |layer| layer >= dense);
    Ok(spec)
}
