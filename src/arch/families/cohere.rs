//! Cohere's Command R (`model_type: "cohere"`): Llama with four changes.
//!
//! - Attention and MLP in parallel after one norm, a LayerNorm without bias.
//! - Rotary pairs are neighbouring elements of a head.
//! - Logits are multiplied by `logit_scale`.
//! - With `use_qk_norm`, LayerNorm of every query and key head, with weights per head.
//!
//! Source: `modeling_cohere.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::rope::{Pairs, RopeDefaults};
use crate::arch::{Arrangement, DecoderSpec, NormKind, NormOver, read};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "cohere",
    name: "Command R",
    special: "parallel residual, interleaved rotary positions, scaled logits",
    refused: "",
    targets: DefaultTargets::NONE,
    nested_defaults: Some(
        r#"{"vocab_size": 256000, "hidden_size": 8192, "intermediate_size": 22528, "num_hidden_layers": 40,
            "num_attention_heads": 64, "tie_word_embeddings": true}"#,
    ),
    shapes: &[Shape {
        name: "aya-23-8b",
        copies: Some("CohereLabs/aya-23-8B"),
        parameters: 8_028_033_024,
        config: r#"{"architectures": ["CohereForCausalLM"], "attention_bias": false,
            "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
            "layer_norm_eps": 1e-05, "logit_scale": 0.0625, "max_position_embeddings": 8192,
            "model_type": "cohere", "num_attention_heads": 32, "num_hidden_layers": 32,
            "num_key_value_heads": 8, "rope_theta": 10000, "tie_word_embeddings": true,
            "use_qk_norm": false, "vocab_size": 256000}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let mut spec = decoder(config, 500_000.0)?;
    if config.flag("use_qk_norm", false)? {
        let kind = NormKind::LayerWithoutBias;
        spec.norm_queries_and_keys(["q_norm", "k_norm"], NormOver::HeadWithOwnWeight, kind);
    }
    Ok(spec)
}

/// Reads the decoder without norms of queries and keys; `theta` is the default base of its rotary
/// embedding.
pub(super) fn decoder(config: &JsonObject, theta: f64) -> Result<DecoderSpec, ConfigError> {
    let kind = NormKind::LayerWithoutBias;
    let differences = Differences {
        norm: kind,
        epsilon: ("layer_norm_eps", 1e-5),
        mlp_bias: Bias::Never,
        tied: true,
        positions: 8192,
        rope: RopeDefaults {
            theta: (theta, "rope_theta"),
            pairs: Pairs::Neighbours,
            ..RopeDefaults::default()
        },
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    spec.rearrange(|norm| Arrangement::parallel(norm("input_layernorm"), None));
    spec.logit_scale = Some(read::positive(config, "logit_scale")?.unwrap_or(0.0625));
    Ok(spec)
}
