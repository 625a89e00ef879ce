//! Seed-OSS (`model_type: "seed_oss"`): Llama with three changes.
//!
//! - Biases on queries, keys and values with `attention_bias`, true by default; on the output
//!   projection with `attention_out_bias`.
//! - `head_dim` is 128 by default, whatever `hidden_size` is.
//! - 8 key heads by default.
//!
//! Source: `modeling_seed_oss.py`, `configuration_seed_oss.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::DecoderSpec;
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "seed_oss",
    name: "Seed-OSS",
    special: "biases on queries, keys and values; a key of its own for the output's bias",
    refused: "",
    targets: DefaultTargets::NONE,
    nested_defaults: Some(
        r#"{"vocab_size": 155136, "hidden_size": 4096, "intermediate_size": 27648, "num_hidden_layers": 64,
            "num_attention_heads": 80}"#,
    ),
    shapes: &[Shape {
        name: "seed-oss-36b",
        copies: Some("ByteDance-Seed/Seed-OSS-36B-Base"),
        parameters: 36_151_104_512,
        config: r#"{"architectures": ["SeedOssForCausalLM"], "attention_bias": true,
            "attention_out_bias": false, "head_dim": 128, "hidden_act": "silu", "hidden_size": 5120,
            "intermediate_size": 27648, "max_position_embeddings": 524288, "mlp_bias": false,
            "model_type": "seed_oss", "num_attention_heads": 80, "num_hidden_layers": 64,
            "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_theta": 10000000.0,
            "tie_word_embeddings": false, "vocab_size": 155136}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        qkv_bias: Bias::Key("attention_bias", true),
        output_bias: Bias::Key("attention_out_bias", false),
        key_value_heads: Some(8),
        head_dim: Some(128),
        positions: 524_288,
        ..Differences::default()
    };
    llama::decoder(config, &differences)
}
