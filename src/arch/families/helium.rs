//! Helium (`model_type: "helium"`): Llama with three changes.
//!
//! - Rotary pairs are neighbouring elements of a head, with base 100,000 by default.
//! - `head_dim` is 128 by default.
//! - The output projection has no bias, whatever `attention_bias` is.
//!
//! Source: `modeling_helium.py`, `configuration_helium.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::DecoderSpec;
use crate::arch::rope::{Pairs, RopeDefaults};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "helium",
    name: "Helium",
    special: "interleaved rotary positions",
    refused: "",
    targets: DefaultTargets::NONE,
    nested_defaults: Some(
        r#"{"vocab_size": 48000, "hidden_size": 2560, "intermediate_size": 7040, "num_hidden_layers": 24,
            "num_attention_heads": 20}"#,
    ),
    shapes: &[Shape {
        name: "helium-1-2b",
        copies: Some("kyutai/helium-1-preview-2b"),
        parameters: 2_172_643_840,
        config: r#"{"architectures": ["HeliumForCausalLM"], "attention_bias": false, "head_dim": 128,
            "hidden_act": "silu", "hidden_size": 2560, "intermediate_size": 7040,
            "max_position_embeddings": 4096, "mlp_bias": false, "model_type": "helium",
            "num_attention_heads": 20, "num_hidden_layers": 24, "num_key_value_heads": 20,
            "rms_norm_eps": 1e-08, "rope_theta": 100000.0, "tie_word_embeddings": false,
            "vocab_size": 48000}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        epsilon: ("rms_norm_eps", 1e-8),
        output_bias: Bias::Never,
        key_value_heads: Some(20),
        head_dim: Some(128),
        positions: 4096,
        rope: RopeDefaults {
            theta: (100_000.0, "rope_theta"),
            pairs: Pairs::Neighbours,
            ..RopeDefaults::default()
        },
        ..Differences::default()
    };
    llama::decoder(config, &differences)
}
