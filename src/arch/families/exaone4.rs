//! EXAONE 4 (`model_type: "exaone4"`): Llama with three changes.
//!
//! - A norm follows its sublayer: `x + norm(attention(x))`, `x + norm(mlp(x))`.
//! - RMSNorm of every query and key head, before the rotary embedding.
//! - With `sliding_window`, layers without a window have no positions. `layer_types` says which
//!   these are; by default it's every `sliding_window_pattern`-th.
//!
//! Source: `modeling_exaone4.py`, `configuration_exaone4.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape, olmo2};
use crate::arch::{DecoderSpec, NormKind, NormOver, windows};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "exaone4",
    name: "EXAONE 4",
    special: "norms after the sublayers and of query and key heads; layers without positions",
    refused: "",
    targets: DefaultTargets::NONE,
    nested_defaults: Some(
        r#"{"vocab_size": 102400, "hidden_size": 4096, "intermediate_size": 16384, "num_hidden_layers": 32,
            "num_attention_heads": 32}"#,
    ),
    shapes: &[Shape {
        name: "exaone-4.0-1.2b",
        copies: Some("LGAI-EXAONE/EXAONE-4.0-1.2B"),
        parameters: 1_279_391_488,
        config: r#"{"architectures": ["Exaone4ForCausalLM"], "head_dim": 64, "hidden_act": "silu",
            "hidden_size": 2048, "intermediate_size": 4096, "max_position_embeddings": 65536,
            "model_type": "exaone4", "num_attention_heads": 32, "num_hidden_layers": 30,
            "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 16.0,
            "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3"},
            "rope_theta": 1000000, "sliding_window": null, "sliding_window_pattern": null,
            "tie_word_embeddings": true, "vocab_size": 102400}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        epsilon: ("rms_norm_eps", 1e-5),
        qkv_bias: Bias::Never,
        output_bias: Bias::Never,
        mlp_bias: Bias::Never,
        key_value_heads: Some(32),
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    olmo2::put_norms_after(&mut spec);
    spec.norm_queries_and_keys(["q_norm", "k_norm"], NormOver::Head, NormKind::Rms);
    let has_window = windows::size(config, Some(4096))?.is_some();
    // Without a window the pattern may be anything.
    let pattern = match has_window && config.get("layer_types").is_none() {
        true => config.optional_size("sliding_window_pattern")?.unwrap_or(4),
        false => 1,
    };
    let otherwise = |layer: usize| has_window && !(layer + 1).is_multiple_of(pattern);
    let sliding = windows::sliding(config, spec.layers.len(), otherwise)?;
    let window = windows::size_for(config, &sliding, 4096)?;
    windows::set(&mut spec, &sliding, window);
    if has_window {
        windows::drop_positions_without(&mut spec);
    }
    Ok(spec)
}
