//! gpt-oss (`model_type: "gpt_oss"`).
//!
//! - Layers alternate between a window of `sliding_window` tokens and full attention, or as
//!   `layer_types` says; biases of the attention's projections with `attention_bias`.
//! - A sink for each query head: one more score in the softmax, without a value.
//! - The weights of a token's experts are a softmax over their logits; router and experts have
//!   biases. `(u + 1) * g * sigmoid(swiglu_alpha * g)` with `g = min(gate, swiglu_limit)` and
//!   `u = clip(up, ±swiglu_limit)`.
//! - Tensors with all experts of a layer are stored inputs before outputs, with the columns of gate
//!   and up in turn.
//!
//! Source: `modeling_gpt_oss.py`, Hugging Face Transformers.

use serde_json::json;

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::experts::describe::{ExpertForm, Experts, Routing, sizes};
use crate::arch::rope::RopeDefaults;
use crate::arch::{DecoderSpec, GateUpRows, Glu, PlainParameter, Stored, read, windows};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "gpt_oss",
    name: "gpt-oss",
    special: "experts with biases and a clamped gate; sinks, a window in every other layer",
    refused: "adapters on experts and router, except LoRA",
    targets: DefaultTargets::NONE,
    nested_defaults: None,
    shapes: &[Shape {
        name: "gpt-oss-20b",
        copies: Some("openai/gpt-oss-20b"),
        parameters: 20_914_757_184,
        config: r#"{"architectures": ["GptOssForCausalLM"], "attention_bias": true, "head_dim": 64,
            "hidden_act": "silu", "hidden_size": 2880, "intermediate_size": 2880,
            "max_position_embeddings": 131072, "model_type": "gpt_oss",
            "num_attention_heads": 64, "num_experts_per_tok": 4, "num_hidden_layers": 24,
            "num_key_value_heads": 8, "num_local_experts": 32, "rms_norm_eps": 1e-05,
            "rope_scaling": { "beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0,
            "original_max_position_embeddings": 4096, "rope_type": "yarn", "truncate": false },
            "rope_theta": 150000, "sliding_window": 128, "swiglu_limit": 7.0,
            "tie_word_embeddings": false, "vocab_size": 201088}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let config = &with_rotation(config);
    let bias = Bias::Key("attention_bias", true);
    let differences = Differences {
        epsilon: ("rms_norm_eps", 1e-5),
        qkv_bias: bias,
        output_bias: bias,
        mlp_bias: Bias::Never,
        key_value_heads: Some(8),
        head_dim: Some(64),
        positions: 131_072,
        rope: RopeDefaults {
            theta: (150_000.0, "rope_theta"),
            ..RopeDefaults::default()
        },
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    for attention in spec.attentions_mut() {
        let path = attention.path().to_owned();
        attention.sinks = Some(PlainParameter {
            source: path.clone(),
            path,
            name: "sinks",
            shape: vec![attention.num_attention_heads],
        });
    }

    let count = read::either(config, ["num_local_experts", "num_experts"]);
    let keys = [(count, Some(128)), ("num_experts_per_tok", Some(4))];
    let alpha = read::positive(config, "swiglu_alpha")?;
    let limit = read::positive(config, "swiglu_limit")?;
    let size = config.size("intermediate_size")?;
    let experts = Experts {
        router: ["router", "router"],
        form: ExpertForm::Fused {
            rows: GateUpRows::Alternating,
            stored: match in_mxfp4(config) {
                true => Stored::OutIn,
                false => Stored::InOut,
            },
            declared: true,
        },
        bias: true,
        glu: Some(Glu::Clamped {
            alpha: alpha.unwrap_or(1.702),
            limit: limit.unwrap_or(7.0),
        }),
        ..Experts::new(sizes(config, keys)?, size, Routing::softmax(true))
    };
    experts.replace(&mut spec, |_| true);

    let every_other = |layer: usize| layer.is_multiple_of(2);
    let sliding = windows::sliding(config, spec.layers.len(), every_other)?;
    let window = windows::size(config, Some(128))?;
    windows::set(&mut spec, &sliding, window);
    Ok(spec)
}

/// Whether the experts are stored as MXFP4, which has outputs before inputs.
fn in_mxfp4(config: &JsonObject) -> bool {
    let quantized = config.get("quantization_config");
    let method = quantized.and_then(|quantized| quantized.get("quant_method"));
    method.and_then(serde_json::Value::as_str) == Some("mxfp4")
}

/// The configuration with the class's own rotary embedding, if it has none.
fn with_rotation(config: &JsonObject) -> JsonObject {
    let has = |key: &str| config.get(key).is_some();
    if has("rope_parameters") || has("rope_scaling") {
        return config.clone();
    }
    let yarn = json!({
        "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
        "truncate": false, "original_max_position_embeddings": 4096,
    });
    config.with("rope_parameters", yarn)
}
