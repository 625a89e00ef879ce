//! dots.llm1 (`model_type: "dots1"`): Qwen3 with DeepSeek-V3's router.
//!
//! - RMSNorm of every query and key head; `layer_types` says which layers have a window.
//! - Layers from `first_k_dense_replace` on have `n_routed_experts` experts and `n_shared_experts`
//!   that every token uses, in one MLP.
//! - A token's experts are those with the highest `sigmoid(z) + e_score_correction_bias` in the best
//!   `topk_group` of `n_group` groups; their weights are `sigmoid(z)`.
//!
//! Source: `modeling_dots1.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::experts::describe::{CorrectedDefaults, Experts, Routing, Shared, sizes};
use crate::arch::{DecoderSpec, NormKind, NormOver, read, windows};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "dots1",
    name: "dots.llm1",
    special: "experts chosen with a correction, in groups; norms of query and key heads",
    refused: "adapters on experts and router, except LoRA",
    targets: DefaultTargets::NONE,
    nested_defaults: None,
    shapes: &[Shape {
        name: "dots.llm1",
        copies: Some("rednote-hilab/dots.llm1.base"),
        parameters: 142_774_381_696,
        config: r#"{"architectures": ["Dots1ForCausalLM"], "attention_bias": false,
            "first_k_dense_replace": 1, "head_dim": 128, "hidden_act": "silu",
            "hidden_size": 4096, "intermediate_size": 10944, "max_position_embeddings": 32768,
            "model_type": "dots1", "moe_intermediate_size": 1408, "n_group": 1,
            "n_routed_experts": 128, "n_shared_experts": 2, "norm_topk_prob": true,
            "num_attention_heads": 32, "num_experts_per_tok": 6, "num_hidden_layers": 62,
            "num_key_value_heads": 32, "rms_norm_eps": 1e-05, "rope_theta": 10000000,
            "routed_scaling_factor": 2.5, "sliding_window": null, "tie_word_embeddings": false,
            "topk_group": 1, "vocab_size": 152064}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        mlp_bias: Bias::Never,
        key_value_heads: Some(32),
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    spec.norm_queries_and_keys(["q_norm", "k_norm"], NormOver::Head, NormKind::Rms);

    let count = read::either(config, ["n_routed_experts", "num_local_experts"]);
    let sizes = sizes(config, [(count, None), ("num_experts_per_tok", None)])?;
    let defaults = CorrectedDefaults {
        groups: [1, 1],
        normalised: false,
        scale: 1.0,
    };
    let routing = Routing::sigmoid_with_correction(config, sizes, defaults)?;
    let size = config.optional_size("moe_intermediate_size")?;
    let size = size.unwrap_or(1408);
    let shared = config.size("n_shared_experts")?;
    let experts = Experts {
        shared: Some(Shared::gated("shared_experts", shared * size)),
        ..Experts::new(sizes, size, routing)
    };
    let dense = read::count(config, "first_k_dense_replace", 0)?;
    experts.replace(&mut spec, |layer| layer >= dense);

    let window = windows::size(config, Some(4096))?;
    let from = read::count(config, "max_window_layers", 62)?;
    let otherwise = |layer: usize| window.is_some() && layer >= from;
    let sliding = windows::sliding(config, spec.layers.len(), otherwise)?;
    windows::set(&mut spec, &sliding, window);
    Ok(spec)
}
