//! Gemma (`model_type: "gemma"`): Llama with other norms and scaled embeddings.
//!
//! - RMSNorm with `1 + weight`.
//! - The embedding's rows are multiplied by `sqrt(hidden_size)`.
//! - GELU with tanh, also if `hidden_act` is `gelu`; `head_dim` is 256 by default.
//!
//! Source: `modeling_gemma.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::{Activation, DecoderSpec, EmbeddingScale, NormKind, read};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "gemma",
    name: "Gemma",
    special: "RMSNorm with `1 + weight`, scaled embeddings",
    refused: "`use_bidirectional_attention`",
    targets: DefaultTargets {
        adalora: &["q_proj", "v_proj"],
        beft: &["v_proj"],
        ia3: &["q_proj", "v_proj", "down_proj"],
        ia3_feedforward: &["down_proj"],
        ln_tuning: &["input_layernorm", "post_attention_layernorm", "norm"],
        osf: &[
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "down_proj",
            "up_proj",
        ],
        ..DefaultTargets::alike(&["q_proj", "v_proj"])
    },
    nested_defaults: Some(
        r#"{"vocab_size": 256000, "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28,
            "num_attention_heads": 16, "tie_word_embeddings": true}"#,
    ),
    shapes: &[Shape {
        name: "gemma-2b",
        copies: Some("google/gemma-2b"),
        parameters: 2_506_172_416,
        config: r#"{"architectures": ["GemmaForCausalLM"], "attention_bias": false, "head_dim": 256,
            "hidden_act": "gelu_pytorch_tanh", "hidden_size": 2048, "intermediate_size": 16384,
            "max_position_embeddings": 8192, "model_type": "gemma", "num_attention_heads": 8,
            "num_hidden_layers": 18, "num_key_value_heads": 1, "rms_norm_eps": 1e-06,
            "rope_theta": 10000.0, "tie_word_embeddings": true, "vocab_size": 256000}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        key_value_heads: Some(16),
        ..differences()
    };
    let mut spec = decoder(config, &differences)?;
    if config.optional_text("hidden_act")? == Some("gelu") {
        spec.set_activation(Activation::GeluTanh);
    }
    Ok(spec)
}

/// The differences that all Gemma versions share.
pub fn differences() -> Differences {
    Differences {
        norm: NormKind::RmsPlusOne,
        mlp_bias: Bias::Never,
        tied: true,
        activation: ("hidden_act", Activation::GeluTanh),
        head_dim: Some(256),
        positions: 8192,
        ..Differences::default()
    }
}

/// Reads a decoder with scaled embeddings.
pub fn decoder(config: &JsonObject, differences: &Differences) -> Result<DecoderSpec, ConfigError> {
    let reason = "only causal attention generates text";
    read::must_be_off(config, "use_bidirectional_attention", reason)?;
    let mut spec = llama::decoder(config, differences)?;
    let scale = (spec.hidden_size as f64).sqrt();
    spec.embedding_scale = Some(EmbeddingScale::Rows(scale));
    Ok(spec)
}
