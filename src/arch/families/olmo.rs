//! OLMo (`model_type: "olmo"`): Llama with other norms.
//!
//! - LayerNorm without parameters.
//! - Queries, keys and values are cut off at ± `clip_qkv`.
//!
//! Source: `modeling_olmo.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use crate::arch::{DecoderSpec, NormKind, read};
use crate::json::{ConfigError, JsonObject};

/// Reads the architecture from `config.json`.
pub fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        norm: NormKind::LayerWithoutParameters,
        epsilon: ("", 1e-5),
        mlp_bias: Bias::Never,
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    let clip = read::positive(config, "clip_qkv")?;
    for layer in &mut spec.layers {
        layer.attention.clip = clip;
    }
    Ok(spec)
}
