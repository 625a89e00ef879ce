//! Qwen3 (`model_type: "qwen3"`): Llama with norms of queries and keys.
//!
//! - RMSNorm of every query and key head, before the rotation.
//! - `head_dim` is 128 by default, whatever `hidden_size` is.
//! - With `use_sliding_window`, layers from `max_window_layers` on see a window.
//!
//! Source: `modeling_qwen3.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use crate::arch::{DecoderSpec, NormKind, NormOver, windows};
use crate::json::{ConfigError, JsonObject};

/// Reads the architecture from `config.json`.
pub fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        mlp_bias: Bias::Never,
        head_dim: Some(128),
        positions: 32_768,
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    spec.norm_queries_and_keys(["q_norm", "k_norm"], NormOver::Head, NormKind::Rms);
    windows::qwen(config, &mut spec)?;
    Ok(spec)
}
