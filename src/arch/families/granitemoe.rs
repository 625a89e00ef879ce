//! Granite's mixtures of experts (`model_type: "granitemoe"`): Granite with experts.
//!
//! - The weights of a token's experts are a softmax over their logits.
//! - Checkpoints have all experts of a layer in `input_linear` (gate and up) and `output_linear`.
//!
//! Source: `modeling_granitemoe.py`, `conversion_mapping.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape, granite};
use crate::arch::experts::describe::{Experts, Routing, sizes};
use crate::arch::{DecoderSpec, StackNames};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "granitemoe",
    name: "Granite 3 with experts",
    special: "experts; multipliers on embeddings, scores, residuals and logits",
    refused: "adapters on experts and router, except LoRA",
    targets: DefaultTargets::NONE,
    nested_defaults: None,
    shapes: &[Shape {
        name: "granite-3.1-1b-a400m",
        copies: Some("ibm-granite/granite-3.1-1b-a400m-base"),
        parameters: 1_334_628_352,
        config: r#"{"architectures": ["GraniteMoeForCausalLM"], "attention_bias": false,
            "attention_multiplier": 0.015625, "embedding_multiplier": 12.0, "hidden_act": "silu",
            "hidden_size": 1024, "intermediate_size": 512, "logits_scaling": 6.0,
            "max_position_embeddings": 131072, "model_type": "granitemoe",
            "num_attention_heads": 16, "num_experts_per_tok": 8, "num_hidden_layers": 24,
            "num_key_value_heads": 8, "num_local_experts": 32, "residual_multiplier": 0.22,
            "rms_norm_eps": 1e-06, "rope_theta": 1500000.0, "tie_word_embeddings": true,
            "vocab_size": 49155}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let mut spec = decoder(config)?;
    experts(config)?.replace(&mut spec, |_| true);
    Ok(spec)
}

/// The decoder, still without experts.
pub fn decoder(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        mlp_bias: Bias::Never,
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    granite::set_multipliers(config, &mut spec)?;
    Ok(spec)
}

/// The experts.
pub fn experts(config: &JsonObject) -> Result<Experts, ConfigError> {
    let size = config.size("intermediate_size")?;
    let keys = [
        ("num_local_experts", Some(8)),
        ("num_experts_per_tok", Some(2)),
    ];
    Ok(Experts {
        block: ["block_sparse_moe", "block_sparse_moe"],
        router: ["router", "router.layer"],
        stacks: StackNames::Linears,
        ..Experts::new(sizes(config, keys)?, size, Routing::softmax(true))
    })
}
