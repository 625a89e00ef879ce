//! StableLM (`model_type: "stablelm"`): Llama with LayerNorm.
//!
//! - A quarter of each head is turned, unless `partial_rotary_factor` says otherwise.
//! - Biases on queries, keys and values with `use_qkv_bias`.
//! - `use_parallel_residual`: attention and perceptron side by side behind one norm.
//!
//! Source: `modeling_stablelm.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use crate::arch::rope::RopeDefaults;
use crate::arch::{Arrangement, DecoderSpec, NormKind, read};
use crate::json::{ConfigError, JsonObject};

/// Reads the architecture from `config.json`.
pub fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let reason = "norms of queries and keys with a module for each head";
    read::must_be_off(config, "qk_layernorm", reason)?;
    let differences = Differences {
        norm: NormKind::Layer,
        epsilon: ("layer_norm_eps", 1e-5),
        qkv_bias: Bias::Key("use_qkv_bias", false),
        output_bias: Bias::Never,
        mlp_bias: Bias::Never,
        key_value_heads: Some(32),
        positions: 4096,
        rope: RopeDefaults {
            partial: Some((0.25, "partial_rotary_factor")),
            ..RopeDefaults::default()
        },
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    if config.flag("use_parallel_residual", false)? {
        spec.rearrange(|norm| Arrangement::parallel(norm("input_layernorm"), None));
    }
    Ok(spec)
}
