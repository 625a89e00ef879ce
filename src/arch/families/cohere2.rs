//! Cohere's Command R7B and Command A (`model_type: "cohere2"`): Cohere with two changes.
//!
//! - Three of four layers have a window of `sliding_window` tokens; the others have no positions.
//!   `layer_types` or `sliding_window_pattern` may say otherwise.
//! - Queries and keys have no norms.
//!
//! Source: `modeling_cohere2.py`, `configuration_cohere2.py`, Hugging Face Transformers.

use super::{DefaultTargets, Family, Shape, cohere};
use crate::arch::{DecoderSpec, windows};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "cohere2",
    name: "Command R7B, Command A",
    special: "Command R with sliding windows, and no positions in the other layers",
    refused: "",
    targets: DefaultTargets::NONE,
    nested_defaults: Some(
        r#"{"vocab_size": 256000, "hidden_size": 8192, "intermediate_size": 22528, "num_hidden_layers": 40,
            "num_attention_heads": 64, "tie_word_embeddings": true}"#,
    ),
    shapes: &[Shape {
        name: "command-r7b",
        copies: Some("CohereLabs/c4ai-command-r7b-12-2024"),
        parameters: 8_028_033_024,
        config: r#"{"architectures": ["Cohere2ForCausalLM"], "attention_bias": false, "head_dim": 128,
            "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
            "layer_norm_eps": 1e-05, "logit_scale": 0.25, "max_position_embeddings": 132096,
            "model_type": "cohere2", "num_attention_heads": 32, "num_hidden_layers": 32,
            "num_key_value_heads": 8, "rope_theta": 50000, "sliding_window": 4096,
            "sliding_window_pattern": 4, "tie_word_embeddings": true, "vocab_size": 256000}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let mut spec = cohere::decoder(config, 10_000.0)?;
    let pattern = config.optional_size("sliding_window_pattern")?.unwrap_or(4);
    let otherwise = |layer: usize| !(layer + 1).is_multiple_of(pattern);
    let sliding = windows::sliding(config, spec.layers.len(), otherwise)?;
    let window = windows::size_for(config, &sliding, 4096)?;
    windows::set(&mut spec, &sliding, window);
    windows::drop_positions_without(&mut spec);
    Ok(spec)
}
