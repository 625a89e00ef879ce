//! ERNIE 4.5 without experts (`model_type: "ernie4_5"`): Llama with three changes.
//!
//! - Rotary pairs are neighbouring elements of a head, with base 500,000 by default.
//! - Biases everywhere with `use_bias`.
//! - `head_dim` is 128 and the head is tied by default.
//!
//! Source: `modeling_ernie4_5.py`, `configuration_ernie4_5.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::DecoderSpec;
use crate::arch::rope::{Pairs, RopeDefaults};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "ernie4_5",
    name: "ERNIE 4.5 without experts",
    special: "interleaved rotary positions, biases everywhere or nowhere",
    refused: "",
    targets: DefaultTargets::NONE,
    nested_defaults: Some(
        r#"{"vocab_size": 103424, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 18,
            "num_attention_heads": 16, "tie_word_embeddings": true}"#,
    ),
    shapes: &[Shape {
        name: "ernie-4.5-0.3b",
        copies: Some("baidu/ERNIE-4.5-0.3B-PT"),
        parameters: 360_748_032,
        config: r#"{"architectures": ["Ernie4_5ForCausalLM"], "head_dim": 128, "hidden_act": "silu",
            "hidden_size": 1024, "intermediate_size": 3072, "max_position_embeddings": 131072,
            "model_type": "ernie4_5", "num_attention_heads": 16, "num_hidden_layers": 18,
            "num_key_value_heads": 2, "rms_norm_eps": 1e-05, "rope_theta": 500000.0,
            "tie_word_embeddings": true, "use_bias": false, "vocab_size": 103424}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let bias = Bias::Key("use_bias", false);
    let differences = Differences {
        epsilon: ("rms_norm_eps", 1e-5),
        qkv_bias: bias,
        output_bias: bias,
        mlp_bias: bias,
        tied: true,
        key_value_heads: Some(2),
        head_dim: Some(128),
        positions: 131_072,
        rope: RopeDefaults {
            theta: (500_000.0, "rope_theta"),
            pairs: Pairs::Neighbours,
            ..RopeDefaults::default()
        },
        ..Differences::default()
    };
    llama::decoder(config, &differences)
}
