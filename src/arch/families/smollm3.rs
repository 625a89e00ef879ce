//! SmolLM3 (`model_type: "smollm3"`): Llama with layers that know no positions.
//!
//! - `no_rope_layers` has a 0 for each layer that turns nothing; by default that's every
//!   `no_rope_layer_interval`-th.
//! - With `use_sliding_window` those layers see a window, or those that `layer_types` names.
//!
//! Source: `modeling_smollm3.py`, Hugging Face Transformers.

use super::llama::{self, Differences};
use crate::arch::rope::RopeDefaults;
use crate::arch::{DecoderSpec, Position, windows};
use crate::json::{ConfigError, JsonObject};

/// Reads the architecture from `config.json`.
pub fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
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
    let turned = turned_layers(config, spec.layers.len())?;
    for (layer, turned) in spec.layers.iter_mut().zip(&turned) {
        if !turned {
            layer.attention.position = Position::None;
        }
    }
    let window = match config.flag("use_sliding_window", false)? {
        true => windows::size(config, None)?,
        false => None,
    };
    let otherwise = |layer: usize| window.is_some() && !turned[layer];
    let sliding = windows::sliding(config, turned.len(), otherwise)?;
    windows::set(&mut spec, &sliding, window);
    Ok(spec)
}

/// For each layer, whether it turns queries and keys.
fn turned_layers(config: &JsonObject, layers: usize) -> Result<Vec<bool>, ConfigError> {
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
