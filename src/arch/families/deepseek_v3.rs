//! DeepSeek-V3, Moonlight (`model_type: "deepseek_v3"`) and Kimi K2 (`kimi_k2`): Llama with latent
//! attention and experts.
//!
//! - Latent attention ([`latent`]); with `rope_interleave`, the default, rotary pairs are
//!   neighbouring elements.
//! - Layers from `first_k_dense_replace` on have experts, as in dots.llm1 ([`super::dots1`]).
//! - Tensors of layers beyond `num_hidden_layers` predict further tokens, and aren't used.
//!
//! Source: `modeling_deepseek_v3.py`, `configuration_deepseek_v3.py`, Hugging Face Transformers.

use serde_json::json;

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::experts::describe::{CorrectedDefaults, Experts, Routing, Shared, sizes};
use crate::arch::latent::{self, LatentDefaults};
use crate::arch::{DecoderSpec, read};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "deepseek_v3",
    name: "DeepSeek-V3, DeepSeek-R1, Moonlight, Kimi K2 (`kimi_k2`)",
    special: "latent attention; experts chosen with a correction, in groups",
    refused: "adapters on experts and router, except LoRA; prefixes",
    targets: DefaultTargets::NONE,
    nested_defaults: Some(
        r#"{"vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432, "num_hidden_layers": 61,
            "num_attention_heads": 128}"#,
    ),
    shapes: &[Shape {
        name: "moonlight-16b-a3b",
        copies: Some("moonshotai/Moonlight-16B-A3B"),
        parameters: 15_960_110_208,
        config: r#"{"architectures": ["DeepseekV3ForCausalLM"], "attention_bias": false,
            "first_k_dense_replace": 1, "hidden_act": "silu", "hidden_size": 2048,
            "intermediate_size": 11264, "kv_lora_rank": 512, "max_position_embeddings": 8192,
            "model_type": "deepseek_v3", "moe_intermediate_size": 1408, "n_group": 1,
            "n_routed_experts": 64, "n_shared_experts": 2, "norm_topk_prob": true,
            "num_attention_heads": 16, "num_experts_per_tok": 6, "num_hidden_layers": 27,
            "num_key_value_heads": 16, "q_lora_rank": null, "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64, "rms_norm_eps": 1e-05, "rope_theta": 50000.0,
            "routed_scaling_factor": 2.446, "tie_word_embeddings": false, "topk_group": 1,
            "v_head_dim": 128, "vocab_size": 163840}"#,
    }],
    read: spec,
};

const LATENT: LatentDefaults = LatentDefaults {
    query_rank: 1536,
    widths: [128, 64, 128],
    reads_pairs: true,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        qkv_bias: Bias::Never,
        output_bias: Bias::Never,
        mlp_bias: Bias::Never,
        key_value_heads: Some(128),
        positions: 4096,
        ..Differences::default()
    };
    // DeepSeek's own code has others, too; Transformers has these alone.
    for (key, only) in [("scoring_func", "sigmoid"), ("topk_method", "noaux_tc")] {
        if config
            .optional_text(key)?
            .is_some_and(|found| found != only)
        {
            return Err(config.wrong(key, &format!("`{only}`")));
        }
    }
    refuse_other_width(config, &LATENT)?;
    let mut spec = decoder(config, &differences, &LATENT)?;
    let defaults = CorrectedDefaults {
        groups: [8, 4],
        normalised: true,
        scale: 2.5,
    };
    let count = read::either(config, ["n_routed_experts", "num_local_experts"]);
    let sizes = sizes(
        config,
        [(count, Some(256)), ("num_experts_per_tok", Some(8))],
    )?;
    let experts = corrected(config, sizes, defaults, 2048)?;
    let dense = read::count(config, "first_k_dense_replace", 3)?;
    experts.replace(&mut spec, |layer| layer >= dense);
    Ok(spec)
}

/// Refuses a `head_dim` that isn't the width of the rotated part: Transformers would rotate by it.
pub(super) fn refuse_other_width(
    config: &JsonObject,
    defaults: &LatentDefaults,
) -> Result<(), ConfigError> {
    let width = latent::rotated_width(config, defaults)?;
    match config.optional_size("head_dim")? {
        Some(other) if other != width => {
            let expected = format!("{width}, the value of `qk_rope_head_dim`, or nothing");
            Err(config.wrong("head_dim", &expected))
        }
        _ => Ok(()),
    }
}

/// A decoder with latent attention.
pub(super) fn decoder(
    config: &JsonObject,
    differences: &Differences,
    defaults: &LatentDefaults,
) -> Result<DecoderSpec, ConfigError> {
    // Only the rotated part of a head decides about positions.
    let width = latent::rotated_width(config, defaults)?;
    let config = config.with("head_dim", json!(width));
    let mut spec = llama::decoder(&config, differences)?;
    latent::replace(&mut spec, &config, defaults)?;
    Ok(spec)
}

/// Experts with a corrected choice, of the size `moe_intermediate_size`.
pub(super) fn corrected(
    config: &JsonObject,
    sizes: [usize; 2],
    defaults: CorrectedDefaults,
    default_size: usize,
) -> Result<Experts, ConfigError> {
    let routing = Routing::sigmoid_with_correction(config, sizes, defaults)?;
    let size = config.optional_size("moe_intermediate_size")?;
    let size = size.unwrap_or(default_size);
    let shared = config.optional_size("n_shared_experts")?.unwrap_or(1);
    Ok(Experts {
        shared: Some(Shared::gated("shared_experts", shared * size)),
        ..Experts::new(sizes, size, routing)
    })
}
