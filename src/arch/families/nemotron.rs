//! Nemotron and Minitron (`model_type: "nemotron"`): Llama with three changes.
//!
//! - LayerNorm with `1 + weight`.
//! - A plain MLP: `down_proj(max(up_proj(x), 0)^2)`.
//! - The first half of a head is rotated by default.
//!
//! Source: `modeling_nemotron.py`, `configuration_nemotron.py`, Hugging Face Transformers.

use super::llama::{self, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::rope::RopeDefaults;
use crate::arch::{Activation, DecoderSpec, NormKind};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "nemotron",
    name: "Nemotron, Minitron",
    special: "LayerNorm with `1 + weight`, plain MLP with squared ReLU, partial rotary positions",
    refused: "",
    targets: DefaultTargets::NONE,
    nested_defaults: Some(
        r#"{"vocab_size": 256000, "hidden_size": 6144, "intermediate_size": 24576, "num_hidden_layers": 32,
            "num_attention_heads": 48}"#,
    ),
    shapes: &[Shape {
        name: "minitron-4b",
        copies: Some("nvidia/Minitron-4B-Base"),
        parameters: 4_190_509_056,
        config: r#"{"architectures": ["NemotronForCausalLM"], "attention_bias": false, "head_dim": 128,
            "hidden_act": "relu2", "hidden_size": 3072, "intermediate_size": 9216,
            "max_position_embeddings": 4096, "mlp_bias": false, "model_type": "nemotron",
            "norm_eps": 1e-05, "num_attention_heads": 24, "num_hidden_layers": 32,
            "num_key_value_heads": 8, "partial_rotary_factor": 0.5, "rope_theta": 10000.0,
            "tie_word_embeddings": false, "vocab_size": 256000}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        norm: NormKind::LayerPlusOne,
        epsilon: ("norm_eps", 1e-5),
        activation: ("hidden_act", Activation::Relu2),
        positions: 4096,
        rope: RopeDefaults {
            partial: Some((0.5, "partial_rotary_factor")),
            ..RopeDefaults::default()
        },
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    spec.make_mlps_plain(["mlp.up_proj", "mlp.down_proj"]);
    Ok(spec)
}
