//! OLMo 2 (`model_type: "olmo2"`): Llama with two changes.
//!
//! - A norm follows its sublayer: `x + norm(attention(x))`, `x + norm(mlp(x))`.
//! - RMSNorm of the whole query and key projections, before the split into heads.
//!
//! Source: `modeling_olmo2.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::{Arrangement, DecoderSpec, NormKind, NormOver};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "olmo2",
    name: "OLMo 2",
    special: "norms after the sublayers; norms of whole query and key projections",
    refused: "",
    targets: DefaultTargets::NONE,
    nested_defaults: Some(
        r#"{"vocab_size": 50304, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32}"#,
    ),
    shapes: &[Shape {
        name: "olmo-2-1b",
        copies: Some("allenai/OLMo-2-0425-1B"),
        parameters: 1_484_916_736,
        config: r#"{"architectures": ["Olmo2ForCausalLM"], "attention_bias": false,
            "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 8192,
            "max_position_embeddings": 4096, "model_type": "olmo2", "num_attention_heads": 16,
            "num_hidden_layers": 16, "num_key_value_heads": 16, "rms_norm_eps": 1e-06,
            "rope_theta": 500000.0, "tie_word_embeddings": false, "vocab_size": 100352}"#,
    }],
    read: decoder,
};

/// Reads the architecture from `config.json`.
pub(super) fn decoder(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        epsilon: ("rms_norm_eps", 1e-5),
        mlp_bias: Bias::Never,
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    spec.norm_queries_and_keys(["q_norm", "k_norm"], NormOver::Projection, NormKind::Rms);
    put_norms_after(&mut spec);
    Ok(spec)
}

/// Gives every layer norms of the sublayers' outputs, and no others.
pub(super) fn put_norms_after(spec: &mut DecoderSpec) {
    spec.rearrange(|norm| {
        Arrangement::after(
            norm("post_attention_layernorm"),
            norm("post_feedforward_layernorm"),
        )
    });
}
