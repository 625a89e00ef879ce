//! Ministral (`model_type: "ministral"`): Mistral with a window in some layers.
//!
//! - `layer_types` says which layers have a window; by default all have it, or none if
//!   `sliding_window` is null.
//!
//! Source: `modeling_ministral.py`, `configuration_ministral.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::{DecoderSpec, windows};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "ministral",
    name: "Ministral",
    special: "sliding window in some layers",
    refused: "",
    targets: DefaultTargets::NONE,
    nested_defaults: Some(
        r#"{"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32}"#,
    ),
    shapes: &[Shape {
        name: "ministral-8b",
        copies: Some("mistralai/Ministral-8B-Instruct-2410"),
        parameters: 8_019_808_256,
        config: r#"{"architectures": ["MinistralForCausalLM"], "head_dim": 128, "hidden_act": "silu",
            "hidden_size": 4096, "intermediate_size": 12288, "layer_types": ["full_attention",
            "sliding_attention", "sliding_attention", "sliding_attention", "full_attention",
            "sliding_attention", "sliding_attention", "sliding_attention", "full_attention",
            "sliding_attention", "sliding_attention", "sliding_attention", "full_attention",
            "sliding_attention", "sliding_attention", "sliding_attention", "full_attention",
            "sliding_attention", "sliding_attention", "sliding_attention", "full_attention",
            "sliding_attention", "sliding_attention", "sliding_attention", "full_attention",
            "sliding_attention", "sliding_attention", "sliding_attention", "full_attention",
            "sliding_attention", "sliding_attention", "sliding_attention", "full_attention",
            "sliding_attention", "sliding_attention", "sliding_attention"],
            "max_position_embeddings": 131072, "model_type": "ministral",
            "num_attention_heads": 32, "num_hidden_layers": 36, "num_key_value_heads": 8,
            "rms_norm_eps": 1e-05, "rope_theta": 100000000.0, "sliding_window": 32768,
            "tie_word_embeddings": false, "vocab_size": 131072}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        qkv_bias: Bias::Never,
        output_bias: Bias::Never,
        mlp_bias: Bias::Never,
        key_value_heads: Some(8),
        positions: 4096 * 32,
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    let has_window = windows::size(config, Some(4096))?.is_some();
    let sliding = windows::sliding(config, spec.layers.len(), |_| has_window)?;
    let window = windows::size_for(config, &sliding, 4096)?;
    windows::set(&mut spec, &sliding, window);
    Ok(spec)
}
