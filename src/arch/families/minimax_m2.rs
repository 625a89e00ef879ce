//! MiniMax-M2 (`model_type: "minimax_m2"`): Mixtral with another router.
//!
//! - RMSNorm of the whole query and key projections, before the split into heads.
//! - The first `rotary_dim` elements of a head are rotated, or the fraction
//!   `partial_rotary_factor`.
//! - A token's experts are those with the highest `sigmoid(z) + e_score_correction_bias`; their
//!   weights are `sigmoid(z)` divided by their sum.
//!
//! Source: `modeling_minimax_m2.py`, `conversion_mapping.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::experts::describe::{Correction, Experts, Routing, sizes};
use crate::arch::rope::RopeDefaults;
use crate::arch::{DecoderSpec, NormKind, NormOver, Normalised, Scores, read};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "minimax_m2",
    name: "MiniMax-M2",
    special: "experts chosen with a correction; norms of whole query and key projections",
    refused: "adapters on experts and router, except LoRA",
    targets: DefaultTargets::NONE,
    nested_defaults: None,
    shapes: &[Shape {
        name: "minimax-m2",
        copies: Some("MiniMaxAI/MiniMax-M2"),
        parameters: 228_689_764_864,
        config: r#"{"architectures": ["MiniMaxM2ForCausalLM"], "head_dim": 128,
            "hidden_act": "silu", "hidden_size": 3072, "intermediate_size": 1536,
            "max_position_embeddings": 196608, "model_type": "minimax_m2",
            "num_attention_heads": 48, "num_experts_per_tok": 8, "num_hidden_layers": 62,
            "num_key_value_heads": 8, "num_local_experts": 256, "rms_norm_eps": 1e-06,
            "rope_theta": 5000000, "rotary_dim": 64, "tie_word_embeddings": false,
            "vocab_size": 200064}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    const HEAD_DIM: usize = 128;
    let width = config.optional_size("head_dim")?.unwrap_or(HEAD_DIM);
    let rotated = config.optional_size("rotary_dim")?.unwrap_or(width);
    let differences = Differences {
        qkv_bias: Bias::Never,
        output_bias: Bias::Never,
        mlp_bias: Bias::Never,
        key_value_heads: Some(8),
        head_dim: Some(HEAD_DIM),
        positions: 196_608,
        rope: RopeDefaults {
            theta: (5_000_000.0, "rope_theta"),
            partial: Some((rotated as f64 / width as f64, "partial_rotary_factor")),
            ..RopeDefaults::default()
        },
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    spec.norm_queries_and_keys(["q_norm", "k_norm"], NormOver::Projection, NormKind::Rms);

    let count = read::either(config, ["num_local_experts", "num_experts"]);
    let sizes = sizes(
        config,
        [(count, Some(256)), ("num_experts_per_tok", Some(8))],
    )?;
    let routing = Routing {
        scores: Scores::Sigmoid,
        correction: Some(Correction {
            module: ["", ""],
            ..Correction::OF_GATE
        }),
        normalised: Normalised::Sum,
        ..Routing::SOFTMAX
    };
    let size = config.size("intermediate_size")?;
    let experts = Experts {
        names: ["w1", "w3", "w2"],
        block: ["mlp", "block_sparse_moe"],
        ..Experts::new(sizes, size, routing)
    };
    experts.replace(&mut spec, |_| true);
    Ok(spec)
}
