//! Mixtral (`model_type: "mixtral"`): Mistral with experts.
//!
//! - Each token goes through `num_experts_per_tok` of `num_local_experts`, weighted by the softmax over all of
//!   them, divided by its sum over those.
//! - A token sees `sliding_window` tokens, where that isn't null.
//!
//! Source: `modeling_mixtral.py`, `conversion_mapping.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use crate::arch::experts::Experts;
use crate::arch::rope::RopeDefaults;
use crate::arch::{DecoderSpec, windows};
use crate::json::{ConfigError, JsonObject};

/// Reads the architecture from `config.json`.
pub fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        epsilon: ("rms_norm_eps", 1e-5),
        qkv_bias: Bias::Never,
        output_bias: Bias::Never,
        mlp_bias: Bias::Never,
        key_value_heads: Some(8),
        positions: 4096 * 32,
        rope: RopeDefaults {
            theta: (1_000_000.0, "rope_theta"),
            ..RopeDefaults::default()
        },
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    let size = config.size("intermediate_size")?;
    let experts = Experts {
        names: ["w1", "w3", "w2"],
        source: "block_sparse_moe",
        ..Experts::read(config, "num_local_experts", size, true)?
    };
    experts.replace(&mut spec, |_| true);
    let window = windows::size(config, None)?;
    let every = vec![true; spec.layers.len()];
    windows::set(&mut spec, &every, window);
    Ok(spec)
}
