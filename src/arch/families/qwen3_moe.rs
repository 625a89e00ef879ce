//! Qwen3's mixtures of experts (`model_type: "qwen3_moe"`): Qwen3 with experts.
//!
//! - Every `decoder_sparse_step`-th layer has experts, except `mlp_only_layers`; the others have an
//!   MLP.
//! - `norm_topk_prob`: the router's weights of a token's experts are divided by their sum.
//! - With `use_sliding_window`, every layer has a window.
//!
//! Source: `modeling_qwen3_moe.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::experts::describe::{Experts, Routing, sizes};
use crate::arch::{DecoderSpec, NormKind, NormOver, read, windows};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "qwen3_moe",
    name: "Qwen3 with experts",
    special: "experts in all or some layers; norms of query and key heads",
    refused: "adapters on experts and router, except LoRA",
    targets: DefaultTargets::NONE,
    nested_defaults: None,
    shapes: &[Shape {
        name: "qwen3-30b-a3b",
        copies: Some("Qwen/Qwen3-30B-A3B"),
        parameters: 30_532_122_624,
        config: r#"{"architectures": ["Qwen3MoeForCausalLM"], "attention_bias": false,
            "decoder_sparse_step": 1, "head_dim": 128, "hidden_act": "silu",
            "hidden_size": 2048, "intermediate_size": 6144, "max_position_embeddings": 40960,
            "mlp_only_layers": [], "model_type": "qwen3_moe", "moe_intermediate_size": 768,
            "norm_topk_prob": true, "num_attention_heads": 32, "num_experts": 128,
            "num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 4,
            "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 1000000.0,
            "sliding_window": null, "tie_word_embeddings": false, "use_sliding_window": false,
            "vocab_size": 151936}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        mlp_bias: Bias::Never,
        key_value_heads: Some(4),
        positions: 32_768,
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    spec.norm_queries_and_keys(["q_norm", "k_norm"], NormOver::Head, NormKind::Rms);

    let size = config.size("moe_intermediate_size")?;
    let routing = Routing::softmax(config.flag("norm_topk_prob", false)?);
    let count = read::either(config, ["num_experts", "num_local_experts"]);
    let keys = [count, "num_experts_per_tok"].map(|key| (key, None));
    let experts = Experts::new(sizes(config, keys)?, size, routing);
    let sparse = read::sparse_layers(config)?;
    experts.replace(&mut spec, sparse);

    let window = match config.flag("use_sliding_window", false)? {
        true => windows::size(config, Some(4096))?,
        false => None,
    };
    let every = vec![true; spec.layers.len()];
    windows::set(&mut spec, &every, window);
    Ok(spec)
}
