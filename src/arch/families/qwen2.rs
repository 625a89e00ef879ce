//! Qwen2 and Qwen2.5 (`model_type: "qwen2"`): Llama with biases on queries, keys and values.
//!
//! - With `use_sliding_window`, layers from `max_window_layers` on see a window.
//!
//! Source: `modeling_qwen2.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use crate::arch::{DecoderSpec, windows};
use crate::json::{ConfigError, JsonObject};

/// Reads the architecture from `config.json`.
pub fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        qkv_bias: Bias::Always,
        output_bias: Bias::Never,
        mlp_bias: Bias::Never,
        positions: 32_768,
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    windows::qwen(config, &mut spec)?;
    Ok(spec)
}
