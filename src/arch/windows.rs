//! Which layers use sliding-window attention.

use super::{DecoderSpec, Position, RotarySpec};
use crate::json::{ConfigError, JsonObject};

/// Reads `sliding_window`: `default` if the key is absent, `None` if it's null.
pub fn size(config: &JsonObject, default: Option<usize>) -> Result<Option<usize>, ConfigError> {
    match config.json().get("sliding_window") {
        None => Ok(default),
        Some(_) => config.optional_size("sliding_window"),
    }
}

/// For each layer, whether `layer_types` says `sliding_attention`; `otherwise` decides if the key
/// is absent.
pub fn sliding(
    config: &JsonObject,
    layers: usize,
    otherwise: impl Fn(usize) -> bool,
) -> Result<Vec<bool>, ConfigError> {
    let Some(types) = config.optional_texts("layer_types")? else {
        return Ok((0..layers).map(otherwise).collect());
    };
    let expected =
        || format!("`full_attention` or `sliding_attention` for each of the {layers} layers");
    let sliding: Option<Vec<bool>> = types
        .iter()
        .map(|kind| match kind.as_str() {
            "sliding_attention" => Some(true),
            "full_attention" => Some(false),
            _ => None,
        })
        .collect();
    sliding
        .filter(|sliding| sliding.len() == layers)
        .ok_or_else(|| config.wrong("layer_types", &expected()))
}

/// Like [`size`], but null is refused if any layer is `sliding`.
pub fn size_for(
    config: &JsonObject,
    sliding: &[bool],
    default: usize,
) -> Result<Option<usize>, ConfigError> {
    let window = size(config, Some(default))?;
    if window.is_none() && sliding.contains(&true) {
        let expected = "a number of tokens: some layers have a window";
        return Err(config.wrong("sliding_window", expected));
    }
    Ok(window)
}

/// Gives every layer the rotary embedding of its kind, `[without a window, with one]`.
pub fn rotate_by_kind(spec: &mut DecoderSpec, sliding: &[bool], [full, local]: [RotarySpec; 2]) {
    for (attention, &sliding) in spec.attentions_mut().zip(sliding) {
        let rotary = if sliding { &local } else { &full };
        attention.position = Position::Rotary(rotary.clone());
    }
    for rotary in [full, local] {
        let (positions, end) = rotary.most_positions(spec.max_position_embeddings);
        spec.max_position_embeddings = positions;
        spec.positions_end = spec.positions_end.or(end);
    }
}

/// Removes the positions of layers without a window.
pub fn drop_positions_without(spec: &mut DecoderSpec) {
    for attention in spec.attentions_mut() {
        if attention.window.is_none() {
            attention.position = Position::None;
        }
    }
}

/// Sets the window of the layers for which `sliding` is true.
pub fn set(spec: &mut DecoderSpec, sliding: &[bool], window: Option<usize>) {
    for (layer, &sliding) in spec.layers.iter_mut().zip(sliding) {
        if let Some(attention) = &mut layer.attention {
            attention.window = window.filter(|_| sliding);
        }
    }
}

/// Qwen's rules: with `use_sliding_window`, the window applies from layer `max_window_layers` on,
/// or to the layers that `layer_types` names.
pub fn qwen(config: &JsonObject, spec: &mut DecoderSpec) -> Result<(), ConfigError> {
    let used = config.flag("use_sliding_window", false)?;
    let window = match used {
        true => size(config, Some(4096))?,
        false => None,
    };
    let from = match config.json().get("max_window_layers") {
        None => 28,
        Some(value) => value
            .as_u64()
            .ok_or_else(|| config.wrong("max_window_layers", "a number of layers"))?,
    };
    let otherwise = |layer: usize| window.is_some() && layer as u64 >= from;
    let sliding = sliding(config, spec.layers.len(), otherwise)?;
    if !used && sliding.contains(&true) {
        let reason = "`layer_types` has layers with a window, so it must be true";
        return Err(config.refused("use_sliding_window", reason));
    }
    set(spec, &sliding, window);
    Ok(())
}
