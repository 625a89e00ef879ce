//! OLMoE (`model_type: "olmoe"`): Llama with experts.
//!
//! - RMSNorm of the whole query and key projections, before the split into heads.
//! - Queries, keys and values are cut off at ± `clip_qkv`, behind those norms.
//! - `norm_topk_prob`: the weights of a token's experts are divided by their sum.
//!
//! Source: `modeling_olmoe.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use crate::arch::experts::Experts;
use crate::arch::{DecoderSpec, NormKind, NormOver, read};
use crate::json::{ConfigError, JsonObject};

/// Reads the architecture from `config.json`.
pub fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        epsilon: ("rms_norm_eps", 1e-5),
        mlp_bias: Bias::Never,
        positions: 4096,
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    spec.norm_queries_and_keys(["q_norm", "k_norm"], NormOver::Projection, NormKind::Rms);
    let clip = read::positive(config, "clip_qkv")?;
    for layer in &mut spec.layers {
        layer.attention.clip = clip;
    }
    let size = config.size("intermediate_size")?;
    let normalised = config.flag("norm_topk_prob", false)?;
    let count = read::either(config, ["num_experts", "num_local_experts"]);
    let experts = Experts::read(config, count, size, normalised)?;
    experts.replace(&mut spec, |_| true);
    Ok(spec)
}
