//! Phi-3, Phi-3.5 and Phi-4-mini (`model_type: "phi3"`): Llama with fused projections.
//!
//! - `qkv_proj`: queries, keys and values; `gate_up_proj`: gate and up.
//! - A window of `sliding_window` tokens, unless it's null.
//! - `longrope`, which older configurations call `su` or `yarn`. When a sequence grows beyond
//!   `original_max_position_embeddings`, all its keys are computed again with other frequencies.
//!
//! Source: `modeling_phi3.py`, `configuration_phi3.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::rope::RopeDefaults;
use crate::arch::{Declared, DecoderSpec, FusedRows, Linear, Projections, windows};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "phi3",
    name: "Phi-3, Phi-3.5, Phi-4-mini",
    special: "fused projections, sliding window, `longrope`",
    refused: "",
    targets: DefaultTargets::NONE,
    nested_defaults: Some(
        r#"{"vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
            "num_attention_heads": 32}"#,
    ),
    shapes: &[
        // All factors of its rotation are 1 here.
        Shape {
            name: "phi-3.5-mini",
            copies: Some("microsoft/Phi-3.5-mini-instruct"),
            parameters: 3_821_079_552,
            config: r#"{"architectures": ["Phi3ForCausalLM"], "hidden_act": "silu", "hidden_size": 3072,
                "intermediate_size": 8192, "max_position_embeddings": 131072, "model_type": "phi3",
                "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
                "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-05, "rope_scaling": {
                "long_factor": [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0,
                1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0,
                1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0,
                1.0], "short_factor": [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0,
                1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0,
                1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0,
                1.0, 1.0], "type": "longrope" }, "rope_theta": 10000.0, "sliding_window": 262144,
                "tie_word_embeddings": false, "vocab_size": 32064}"#,
        },
    ],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        epsilon: ("rms_norm_eps", 1e-5),
        qkv_bias: Bias::Never,
        output_bias: Bias::Never,
        mlp_bias: Bias::Never,
        positions: 4096,
        rope: RopeDefaults {
            partial: Some((1.0, "partial_rotary_factor")),
            original: Some(4096),
            recomputes: true,
            ..RopeDefaults::default()
        },
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    let hidden_size = spec.hidden_size;
    for layer in &mut spec.layers {
        let path = &layer.path;
        let Some(attention) = &mut layer.attention else {
            continue;
        };
        let heads = attention.num_attention_heads + 2 * attention.num_key_value_heads;
        attention.projections = Projections::Fused {
            qkv: Linear::new(
                format!("{path}.self_attn.qkv_proj"),
                heads * attention.head_dim,
                hidden_size,
                false,
            ),
            rows: FusedRows::Kinds,
        };
        attention.declared = Declared::OutputFirst;
    }
    spec.fuse_gate_and_up();
    let window = windows::size(config, None)?;
    let every = vec![true; spec.layers.len()];
    windows::set(&mut spec, &every, window);
    Ok(spec)
}
