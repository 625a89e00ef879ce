//! OLMo 2 (`model_type: "olmo2"`): Llama with two changes.
//!
//! - A norm follows its sublayer: `x + norm(attention(x))`, `x + norm(mlp(x))`.
//! - RMSNorm of the whole query and key projections, before the split into heads.
//!
//! Source: `modeling_olmo2.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use crate::arch::{Arrangement, DecoderSpec, NormKind, NormOver};
use crate::json::{ConfigError, JsonObject};

/// Reads the architecture from `config.json`.
pub fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        epsilon: ("rms_norm_eps", 1e-5),
        mlp_bias: Bias::Never,
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    spec.norm_queries_and_keys(["q_norm", "k_norm"], NormOver::Projection, NormKind::Rms);
    spec.rearrange(|norm| {
        Arrangement::after(
            norm("post_attention_layernorm"),
            norm("post_feedforward_layernorm"),
        )
    });
    Ok(spec)
}
