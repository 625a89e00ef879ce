//! Mistral (`model_type: "mistral"`): Llama with a window.
//!
//! - A token sees `sliding_window` tokens, itself among them, in every layer; all of them where it's null.
//!
//! Source: `modeling_mistral.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use crate::arch::{DecoderSpec, windows};
use crate::json::{ConfigError, JsonObject};

/// Reads the architecture from `config.json`.
pub fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        qkv_bias: Bias::Never,
        output_bias: Bias::Never,
        mlp_bias: Bias::Never,
        key_value_heads: Some(8),
        positions: 4096 * 32,
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    let window = windows::size(config, Some(4096))?;
    let every = vec![true; spec.layers.len()];
    windows::set(&mut spec, &every, window);
    Ok(spec)
}
