//! Qwen2's mixtures of experts (`model_type: "qwen2_moe"`): Qwen2 with experts.
//!
//! - Every `decoder_sparse_step`-th layer has experts, except `mlp_only_layers`; the others have an
//!   MLP.
//! - `norm_topk_prob`: the router's weights of a token's experts are divided by their sum.
//! - Every token also uses `shared_expert`, times `sigmoid(shared_expert_gate(x))`.
//! - With `use_sliding_window`, every other layer below `max_window_layers` has a window.
//!
//! Source: `modeling_qwen2_moe.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::experts::describe::{Experts, Routing, Shared, sizes};
use crate::arch::{DecoderSpec, read, windows};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "qwen2_moe",
    name: "Qwen1.5 and Qwen2 with experts",
    special: "experts in all or some layers, a shared one with a gate; biases of q, k and v",
    refused: "adapters on experts and router, except LoRA",
    targets: DefaultTargets::NONE,
    nested_defaults: None,
    shapes: &[Shape {
        name: "qwen1.5-moe-a2.7b",
        copies: Some("Qwen/Qwen1.5-MoE-A2.7B"),
        parameters: 14_315_784_192,
        config: r#"{"architectures": ["Qwen2MoeForCausalLM"], "decoder_sparse_step": 1,
            "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 5632,
            "max_position_embeddings": 8192, "max_window_layers": 21, "model_type": "qwen2_moe",
            "moe_intermediate_size": 1408, "norm_topk_prob": false, "num_attention_heads": 16,
            "num_experts": 60, "num_experts_per_tok": 4, "num_hidden_layers": 24,
            "num_key_value_heads": 16, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
            "shared_expert_intermediate_size": 5632, "sliding_window": 32768,
            "tie_word_embeddings": false, "use_sliding_window": false, "vocab_size": 151936}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        qkv_bias: Bias::Key("qkv_bias", true),
        output_bias: Bias::Never,
        mlp_bias: Bias::Never,
        key_value_heads: Some(16),
        positions: 32_768,
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    let size = config.optional_size("moe_intermediate_size")?;
    let shared = config.optional_size("shared_expert_intermediate_size")?;
    let routing = Routing::softmax(config.flag("norm_topk_prob", false)?);
    let count = read::either(config, ["num_experts", "num_local_experts"]);
    let sizes = sizes(
        config,
        [(count, Some(60)), ("num_experts_per_tok", Some(4))],
    )?;
    let experts = Experts {
        shared: Some(Shared {
            gate: Some("shared_expert_gate"),
            ..Shared::gated("shared_expert", shared.unwrap_or(5632))
        }),
        ..Experts::new(sizes, size.unwrap_or(1408), routing)
    };
    let sparse = read::sparse_layers(config)?;
    experts.replace(&mut spec, sparse);

    let used = config.flag("use_sliding_window", false)?;
    let most = read::count(config, "max_window_layers", 28)?;
    let every_other = |layer: usize| used && layer.is_multiple_of(2) && layer < most;
    let sliding = windows::sliding(config, spec.layers.len(), every_other)?;
    if !used && sliding.contains(&true) {
        let reason = "`layer_types` has layers with a window, so it must be true";
        return Err(config.refused("use_sliding_window", reason));
    }
    // Transformers saves a size of 0 if no layer has a window.
    if used {
        let window = windows::size(config, Some(4096))?;
        windows::set(&mut spec, &sliding, window);
    }
    Ok(spec)
}
