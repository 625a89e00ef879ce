//! Cohere's Command R (`model_type: "cohere"`): Llama with four changes.
//!
//! - Attention and perceptron side by side behind one norm, a LayerNorm without bias.
//! - Neighbouring elements of a head are turned together.
//! - Logits are multiplied by `logit_scale`.
//! - With `use_qk_norm`, LayerNorm of every query and key head, with a weight for each head.
//!
//! Source: `modeling_cohere.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use crate::arch::rope::{Pairs, RopeDefaults};
use crate::arch::{Arrangement, DecoderSpec, NormKind, NormOver, read};
use crate::json::{ConfigError, JsonObject};

/// Reads the architecture from `config.json`.
pub fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let kind = NormKind::LayerWithoutBias;
    let differences = Differences {
        norm: kind,
        epsilon: ("layer_norm_eps", 1e-5),
        mlp_bias: Bias::Never,
        tied: true,
        positions: 8192,
        rope: RopeDefaults {
            theta: (500_000.0, "rope_theta"),
            pairs: Pairs::Neighbours,
            ..RopeDefaults::default()
        },
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    spec.rearrange(|norm| Arrangement::parallel(norm("input_layernorm"), None));
    if config.flag("use_qk_norm", false)? {
        spec.norm_queries_and_keys(["q_norm", "k_norm"], NormOver::HeadWithOwnWeight, kind);
    }
    spec.logit_scale = Some(read::positive(config, "logit_scale")?.unwrap_or(0.0625));
    Ok(spec)
}
