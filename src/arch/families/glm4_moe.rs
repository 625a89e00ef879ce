//! GLM-4.5 (`model_type: "glm4_moe"`): Llama with DeepSeek-V3's router.
//!
//! - The first half of a head is rotated; with `use_qk_norm`, RMSNorm of every query and key head
//!   comes before that. `attention_bias` gives queries, keys and values a bias.
//! - Layers from `first_k_dense_replace` on have experts, as in dots.llm1 ([`super::dots1`]).
//! - Tensors of layers beyond `num_hidden_layers` predict further tokens, and aren't used.
//!
//! Source: `modeling_glm4_moe.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::experts::describe::{CorrectedDefaults, Experts, Routing, Shared, sizes};
use crate::arch::rope::RopeDefaults;
use crate::arch::{DecoderSpec, NormKind, NormOver, read};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "glm4_moe",
    name: "GLM-4.5, GLM-4.6",
    special: "experts chosen with a correction, in groups; part of a head rotated",
    refused: "adapters on experts and router, except LoRA",
    targets: DefaultTargets::NONE,
    nested_defaults: None,
    shapes: &[Shape {
        name: "glm-4.5-air",
        copies: Some("zai-org/GLM-4.5-Air"),
        parameters: 106_852_251_264,
        config: r#"{"architectures": ["Glm4MoeForCausalLM"], "attention_bias": true,
            "first_k_dense_replace": 1, "head_dim": 128, "hidden_act": "silu",
            "hidden_size": 4096, "intermediate_size": 10944, "max_position_embeddings": 131072,
            "model_type": "glm4_moe", "moe_intermediate_size": 1408, "n_group": 1,
            "n_routed_experts": 128, "n_shared_experts": 1, "norm_topk_prob": true,
            "num_attention_heads": 96, "num_experts_per_tok": 8, "num_hidden_layers": 46,
            "num_key_value_heads": 8, "partial_rotary_factor": 0.5, "rms_norm_eps": 1e-05,
            "rope_scaling": null, "rope_theta": 1000000, "routed_scaling_factor": 1.0,
            "tie_word_embeddings": false, "topk_group": 1, "use_qk_norm": false,
            "vocab_size": 151552}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        epsilon: ("rms_norm_eps", 1e-5),
        output_bias: Bias::Never,
        mlp_bias: Bias::Never,
        key_value_heads: Some(8),
        positions: 131_072,
        rope: RopeDefaults {
            partial: Some((0.5, "partial_rotary_factor")),
            ..RopeDefaults::default()
        },
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    if config.flag("use_qk_norm", false)? {
        spec.norm_queries_and_keys(["q_norm", "k_norm"], NormOver::Head, NormKind::Rms);
    }
    let count = read::either(config, ["n_routed_experts", "num_local_experts"]);
    let sizes = sizes(
        config,
        [(count, Some(128)), ("num_experts_per_tok", Some(8))],
    )?;
    let defaults = CorrectedDefaults {
        groups: [1, 1],
        normalised: true,
        scale: 1.0,
    };
    let routing = Routing::sigmoid_with_correction(config, sizes, defaults)?;
    let size = config.optional_size("moe_intermediate_size")?;
    let size = size.unwrap_or(1408);
    let shared = config.optional_size("n_shared_experts")?.unwrap_or(1);
    let experts = Experts {
        shared: Some(Shared::gated("shared_experts", shared * size)),
        ..Experts::new(sizes, size, routing)
    };
    let dense = read::count(config, "first_k_dense_replace", 1)?;
    experts.replace(&mut spec, |layer| layer >= dense);
    Ok(spec)
}
