//! Qwen2 and Qwen2.5 (`model_type: "qwen2"`): Llama with biases on queries, keys and values.
//!
//! - With `use_sliding_window`, layers from `max_window_layers` on have a window.
//!
//! Source: `modeling_qwen2.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::{DecoderSpec, windows};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "qwen2",
    name: "Qwen2, Qwen2.5",
    special: "biases on queries, keys and values; window in the last layers",
    refused: "",
    targets: DefaultTargets {
        adalora: &["q_proj", "v_proj"],
        beft: &["v_proj"],
        ia3: &["q_proj", "v_proj", "down_proj"],
        ia3_feedforward: &["down_proj"],
        ln_tuning: &["post_attention_layernorm"],
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
        r#"{"vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32}"#,
    ),
    shapes: &[Shape {
        name: "qwen2.5-0.5b",
        copies: Some("Qwen/Qwen2.5-0.5B"),
        parameters: 494_032_768,
        config: r#"{"architectures": ["Qwen2ForCausalLM"], "hidden_act": "silu", "hidden_size": 896,
            "intermediate_size": 4864, "max_position_embeddings": 32768,
            "max_window_layers": 24, "model_type": "qwen2", "num_attention_heads": 14,
            "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
            "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": true,
            "use_sliding_window": false, "vocab_size": 151936}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        qkv_bias: Bias::Always,
        output_bias: Bias::Never,
        mlp_bias: Bias::Never,
        positions: 32_768,
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    windows::qwen(config, &mut spec)?;
    Ok(spec)
}
