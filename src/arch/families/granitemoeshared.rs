//! Granite's mixtures of experts with a shared one (`model_type: "granitemoeshared"`): Granite's
//! mixtures, whose layers also have an MLP that every token uses.
//!
//! - `shared_mlp` has gate and up in one projection, and is left out if `shared_intermediate_size`
//!   is 0.
//!
//! Source: `modeling_granitemoeshared.py`, Hugging Face Transformers.

use super::{DefaultTargets, Family, Shape, granitemoe};
use crate::arch::experts::describe::{Experts, Shared, SharedProjections};
use crate::arch::{DecoderSpec, read};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "granitemoeshared",
    name: "Granite 3 with experts and a shared one",
    special: "experts and a shared one; multipliers on embeddings, scores, residuals and logits",
    refused: "adapters on experts and router, except LoRA",
    targets: DefaultTargets::NONE,
    nested_defaults: None,
    // Copies no model: the layers of Granite 3.1 1B A400M with a shared expert.
    shapes: &[Shape {
        name: "granitemoeshared-1.4b",
        copies: None,
        parameters: 1_410_125_824,
        config: r#"{"architectures": ["GraniteMoeSharedForCausalLM"], "attention_bias": false,
            "attention_multiplier": 0.015625, "embedding_multiplier": 12.0, "hidden_act": "silu",
            "hidden_size": 1024, "intermediate_size": 512, "logits_scaling": 6.0,
            "max_position_embeddings": 131072, "model_type": "granitemoeshared",
            "num_attention_heads": 16, "num_experts_per_tok": 8, "num_hidden_layers": 24,
            "num_key_value_heads": 8, "num_local_experts": 32, "residual_multiplier": 0.22,
            "rms_norm_eps": 1e-06, "rope_theta": 1500000.0, "shared_intermediate_size": 1024,
            "tie_word_embeddings": true, "vocab_size": 49155}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let mut spec = granitemoe::decoder(config)?;
    let size = read::count(config, "shared_intermediate_size", 0)?;
    let shared = Shared {
        beside_block: true,
        projections: SharedProjections::Fused,
        ..Shared::gated("shared_mlp", size)
    };
    let experts = Experts {
        shared: (size > 0).then_some(shared),
        ..granitemoe::experts(config)?
    };
    experts.replace(&mut spec, |_| true);
    Ok(spec)
}
