//! GLM-4.7-Flash (`model_type: "glm4_moe_lite"`): DeepSeek-V3 with other defaults.
//!
//! - `mlp_layer_types` says which layers have experts; by default it's all but the first.
//!
//! Source: `modeling_glm4_moe_lite.py`, `configuration_glm4_moe_lite.py`, Hugging Face
//! Transformers.

use super::llama::{Bias, Differences};
use super::{DefaultTargets, Family, Shape, deepseek_v3};
use crate::arch::experts::describe::{CorrectedDefaults, sizes};
use crate::arch::latent::LatentDefaults;
use crate::arch::{DecoderSpec, read};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "glm4_moe_lite",
    name: "GLM-4.7-Flash",
    special: "latent attention; experts chosen with a correction",
    refused: "adapters on experts and router, except LoRA; prefixes",
    targets: DefaultTargets::NONE,
    nested_defaults: None,
    shapes: &[Shape {
        name: "glm-4.7-flash",
        copies: Some("zai-org/GLM-4.7-Flash"),
        parameters: 29_943_393_920,
        config: r#"{"architectures": ["Glm4MoeLiteForCausalLM"], "attention_bias": false,
            "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 10240,
            "kv_lora_rank": 512, "max_position_embeddings": 202752, "model_type": "glm4_moe_lite",
            "moe_intermediate_size": 1536, "n_group": 1, "n_routed_experts": 64,
            "n_shared_experts": 1, "norm_topk_prob": true, "num_attention_heads": 20,
            "num_experts_per_tok": 4, "num_hidden_layers": 47, "num_key_value_heads": 20,
            "q_lora_rank": 768, "qk_nope_head_dim": 192, "qk_rope_head_dim": 64,
            "rms_norm_eps": 1e-05, "rope_theta": 1000000, "routed_scaling_factor": 1.8,
            "tie_word_embeddings": false, "topk_group": 1, "v_head_dim": 256,
            "vocab_size": 154880}"#,
    }],
    read: spec,
};

const LATENT: LatentDefaults = LatentDefaults {
    query_rank: 768,
    widths: [192, 64, 256],
    reads_pairs: true,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        epsilon: ("rms_norm_eps", 1e-5),
        qkv_bias: Bias::Never,
        output_bias: Bias::Never,
        mlp_bias: Bias::Never,
        key_value_heads: Some(20),
        positions: 202_752,
        ..Differences::default()
    };
    deepseek_v3::refuse_other_width(config, &LATENT)?;
    let mut spec = deepseek_v3::decoder(config, &differences, &LATENT)?;
    let defaults = CorrectedDefaults {
        groups: [1, 1],
        normalised: true,
        scale: 1.8,
    };
    let count = read::either(config, ["n_routed_experts", "num_local_experts"]);
    let sizes = sizes(
        config,
        [(count, Some(64)), ("num_experts_per_tok", Some(4))],
    )?;
    let experts = deepseek_v3::corrected(config, sizes, defaults, 1536)?;
    let sparse = sparse_layers(config, spec.layers.len())?;
    experts.replace(&mut spec, |layer| sparse[layer]);
    Ok(spec)
}

/// For each layer, whether it has experts.
fn sparse_layers(config: &JsonObject, layers: usize) -> Result<Vec<bool>, ConfigError> {
    let key = "mlp_layer_types";
    let Some(types) = config.optional_texts(key)? else {
        return Ok((0..layers).map(|layer| layer > 0).collect());
    };
    let kinds: Option<Vec<bool>> = types
        .iter()
        .map(|kind| match kind.as_str() {
            "sparse" => Some(true),
            "dense" => Some(false),
            _ => None,
        })
        .collect();
    let expected = || format!("`dense` or `sparse` for each of the {layers} layers");
    kinds
        .filter(|kinds| kinds.len() == layers)
        .ok_or_else(|| config.wrong(key, &expected()))
}
