//! SmolLM3 (`model_type: "smollm3"`): Llama with some layers without positions.
//!
//! - `no_rope_layers` has a 0 for each layer without rotary embedding; by default that's every
//!   `no_rope_layer_interval`-th.
//! - With `use_sliding_window`, those layers have a window, or the layers that `layer_types` names.
//!
//! Source: `modeling_smollm3.py`, Hugging Face Transformers.

use super::llama::{self, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::rope::RopeDefaults;
use crate::arch::{DecoderSpec, Position, windows};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "smollm3",
    name: "SmolLM3",
    special: "layers without positions",
    refused: "",
    targets: DefaultTargets::NONE,
    nested_defaults: None,
    shapes: &[Shape {
        name: "smollm3-3b",
        copies: Some("HuggingFaceTB/SmolLM3-3B"),
        parameters: 3_075_098_624,
        config: r#"{"architectures": ["SmolLM3ForCausalLM"], "attention_bias": false,
            "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 11008,
            "max_position_embeddings": 65536, "mlp_bias": false, "model_type": "smollm3",
            "no_rope_layer_interval": 4, "num_attention_heads": 16, "num_hidden_layers": 36,
            "num_key_value_heads": 4, "rms_norm_eps": 1e-06, "rope_theta": 5000000.0,
            "sliding_window": null, "tie_word_embeddings": true, "use_sliding_window": false,
            "vocab_size": 128256}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        tied: true,
        positions: 32_768,
        rope: RopeDefaults {
            theta: (2_000_000.0, "rope_theta"),
            ..RopeDefaults::default()
        },
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    let rotary = rotary_layers(config, spec.layers.len())?;
    for (attention, rotary) in spec.attentions_mut().zip(&rotary) {
        if !rotary {
            attention.position = Position::None;
        }
    }
    let window = match config.flag("use_sliding_window", false)? {
        true => windows::size(config, None)?,
        false => None,
    };
    let otherwise = |layer: usize| window.is_some() && !rotary[layer];
    let sliding = windows::sliding(config, rotary.len(), otherwise)?;
    windows::set(&mut spec, &sliding, window);
    Ok(spec)
}

/// For each layer, whether it has a rotary embedding.
fn rotary_layers(config: &JsonObject, layers: usize) -> Result<Vec<bool>, ConfigError> {
    let key = "no_rope_layers";
    let Some(value) = config.get(key) else {
        let interval = config.optional_size("no_rope_layer_interval")?.unwrap_or(4);
        return Ok((1..=layers).map(|number| number % interval != 0).collect());
    };
    let list: Option<Vec<u64>> = serde_json::from_value(value.clone()).ok();
    let list = list.filter(|list| list.len() >= layers && list.iter().all(|&turns| turns <= 1));
    match list {
        Some(list) => Ok(list[..layers].iter().map(|&turns| turns == 1).collect()),
        None => Err(config.wrong(key, &format!("a 0 or 1 for each of the {layers} layers"))),
    }
}
