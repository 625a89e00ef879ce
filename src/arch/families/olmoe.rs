//! OLMoE (`model_type: "olmoe"`): Llama with experts.
//!
//! - RMSNorm of the whole query and key projections, before the split into heads.
//! - Queries, keys and values are clamped to ± `clip_qkv`, after those norms.
//! - `norm_topk_prob`: the router's weights of a token's experts are divided by their sum.
//!
//! Source: `modeling_olmoe.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::experts::describe::{Experts, Routing, sizes};
use crate::arch::{DecoderSpec, NormKind, NormOver, read};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "olmoe",
    name: "OLMoE",
    special: "experts; norms of whole query and key projections, `clip_qkv`",
    refused: "adapters on experts and router, except LoRA",
    targets: DefaultTargets::NONE,
    nested_defaults: None,
    shapes: &[
        Shape {
            name: "olmoe-942m",
            copies: None,
            parameters: 942_441_472,
            config: r#"{"architectures": ["OlmoeForCausalLM"], "attention_bias": false, "clip_qkv": null,
                "hidden_act": "silu", "hidden_size": 1024, "intermediate_size": 512,
                "max_position_embeddings": 4096, "model_type": "olmoe", "norm_topk_prob": false,
                "num_attention_heads": 16, "num_experts": 64, "num_experts_per_tok": 8,
                "num_hidden_layers": 8, "num_key_value_heads": 16, "rms_norm_eps": 1e-05,
                "rope_theta": 10000.0, "tie_word_embeddings": false, "vocab_size": 50304}"#,
        },
        Shape {
            name: "olmoe-1b-7b",
            copies: Some("allenai/OLMoE-1B-7B-0924"),
            parameters: 6_919_161_856,
            config: r#"{"architectures": ["OlmoeForCausalLM"], "attention_bias": false, "clip_qkv": null,
                "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 1024,
                "max_position_embeddings": 4096, "model_type": "olmoe", "norm_topk_prob": false,
                "num_attention_heads": 16, "num_experts": 64, "num_experts_per_tok": 8,
                "num_hidden_layers": 16, "num_key_value_heads": 16, "rms_norm_eps": 1e-05,
                "rope_theta": 10000.0, "tie_word_embeddings": false, "vocab_size": 50304}"#,
        },
    ],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        epsilon: ("rms_norm_eps", 1e-5),
        mlp_bias: Bias::Never,
        positions: 4096,
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    spec.norm_queries_and_keys(["q_norm", "k_norm"], NormOver::Projection, NormKind::Rms);
    let clip = read::positive(config, "clip_qkv")?;
    for attention in spec.attentions_mut() {
        attention.clip = clip;
    }
    let size = config.size("intermediate_size")?;
    let routing = Routing::softmax(config.flag("norm_topk_prob", false)?);
    let count = read::either(config, ["num_experts", "num_local_experts"]);
    let keys = [count, "num_experts_per_tok"].map(|key| (key, None));
    let experts = Experts::new(sizes(config, keys)?, size, routing);
    experts.replace(&mut spec, |_| true);
    Ok(spec)
}
