//! Mistral (`model_type: "mistral"`): Llama with a window.
//!
//! - Every layer has a window of `sliding_window` tokens, including the current one; full attention
//!   if it's null.
//!
//! Source: `modeling_mistral.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::{DecoderSpec, windows};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "mistral",
    name: "Mistral",
    special: "sliding window",
    refused: "",
    targets: DefaultTargets {
        beft: &["v_proj"],
        ia3: &["k_proj", "v_proj", "down_proj"],
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
        r#"{"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32}"#,
    ),
    shapes: &[Shape {
        name: "mistral-7b",
        copies: Some("mistralai/Mistral-7B-v0.1"),
        parameters: 7_241_732_096,
        config: r#"{"architectures": ["MistralForCausalLM"], "hidden_act": "silu", "hidden_size": 4096,
            "intermediate_size": 14336, "max_position_embeddings": 32768,
            "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 32,
            "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
            "sliding_window": 4096, "tie_word_embeddings": false, "vocab_size": 32000}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        qkv_bias: Bias::Never,
        output_bias: Bias::Never,
        mlp_bias: Bias::Never,
        key_value_heads: Some(8),
        positions: 4096 * 32,
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    let window = windows::size(config, Some(4096))?;
    let every = vec![true; spec.layers.len()];
    windows::set(&mut spec, &every, window);
    Ok(spec)
}
