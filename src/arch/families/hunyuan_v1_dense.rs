//! Hunyuan without experts (`model_type: "hunyuan_v1_dense"`): Llama with two changes.
//!
//! - RMSNorm of every query and key head, after the rotary embedding.
//! - A `dynamic` rotary embedding with `alpha` doesn't depend on the length: the base is multiplied
//!   by `alpha^(head_dim / (head_dim - 2))`.
//!
//! Source: `modeling_hunyuan_v1_dense.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::heads::Heads;
use crate::arch::{DecoderSpec, NormKind, NormOrder, NormOver};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "hunyuan_v1_dense",
    name: "Hunyuan without experts",
    special: "norms of query and key heads after the rotary embedding",
    refused: "",
    targets: DefaultTargets::NONE,
    nested_defaults: Some(
        r#"{"vocab_size": 290943, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32}"#,
    ),
    shapes: &[Shape {
        name: "hunyuan-7b",
        copies: Some("tencent/Hunyuan-7B-Pretrain"),
        parameters: 7_504_568_320,
        config: r#"{"architectures": ["HunYuanDenseV1ForCausalLM"], "attention_bias": false,
            "head_dim": 128, "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
            "max_position_embeddings": 32768, "model_type": "hunyuan_v1_dense",
            "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
            "rms_norm_eps": 1e-05, "rope_scaling": {"alpha": 1000.0, "beta_fast": 32,
            "beta_slow": 1, "factor": 1.0, "mscale": 1.0, "mscale_all_dim": 0.0,
            "type": "dynamic"}, "rope_theta": 10000.0, "tie_word_embeddings": true,
            "vocab_size": 128167}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        epsilon: ("rms_norm_eps", 1e-5),
        mlp_bias: Bias::Never,
        ..Differences::default()
    };
    let config = with_stretched_base(config)?;
    let mut spec = llama::decoder(&config, &differences)?;
    let names = ["query_layernorm", "key_layernorm"];
    spec.norm_queries_and_keys(names, NormOver::Head, NormKind::Rms);
    for attention in spec.attentions_mut() {
        attention.norm_order = NormOrder::AfterRotation;
    }
    Ok(spec)
}

/// `config` with a plain rotary embedding in place of a `dynamic` one with `alpha`.
pub(super) fn with_stretched_base(config: &JsonObject) -> Result<JsonObject, ConfigError> {
    let key = match config.get("rope_parameters") {
        Some(_) => "rope_parameters",
        None => "rope_scaling",
    };
    let Some(parameters) = config.optional_object(key)? else {
        return Ok(config.clone());
    };
    let kind = match parameters.optional_text("rope_type")? {
        Some(kind) => Some(kind),
        None => parameters.optional_text("type")?,
    };
    let alpha = parameters.optional_number("alpha")?.unwrap_or(0.0);
    if kind != Some("dynamic") || alpha == 0.0 {
        return Ok(config.clone());
    }
    let theta = match parameters.optional_number("rope_theta")? {
        Some(theta) => theta,
        None => config.optional_number("rope_theta")?.unwrap_or(10_000.0),
    };
    let width = Heads::grouped(config, config.size("hidden_size")?, None, None)?.width as f64;
    let stretched = theta * alpha.powf(width / (width - 2.0));
    if !stretched.is_finite() {
        return Err(parameters.wrong("alpha", "a positive number that gives a finite base"));
    }
    let plain = serde_json::json!({"rope_type": "default", "rope_theta": stretched});
    Ok(config.with(key, plain))
}
