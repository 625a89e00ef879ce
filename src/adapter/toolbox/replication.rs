//! `layer_replication`: a deeper model from the base's layers.
//!
//! `[[a, b], …]`: the new layers are the base's half-open ranges `[a, b)`, one after the other. A
//! layer and its replicas share base weights; their adapters are separate, and named by the new
//! indices.
//!
//! Source: PEFT, `tuners/tuners_utils.py`, `replicate_layers`.

use crate::arch::{DecoderSpec, Layer};
use crate::json::{ConfigError, JsonObject};

/// The architecture after `layer_replication`.
///
/// # Errors
/// If it isn't a list of such ranges within the base's layers.
pub fn replicate(config: &JsonObject, spec: &DecoderSpec) -> Result<DecoderSpec, ConfigError> {
    let Some(value) = config.get("layer_replication") else {
        return Ok(spec.clone());
    };
    let count = spec.layers.len();
    let ranges: Option<Vec<[usize; 2]>> = serde_json::from_value(value.clone()).ok();
    let ranges = ranges
        .filter(|ranges| {
            ranges
                .iter()
                .all(|&[start, end]| start < end && end <= count)
        })
        .filter(|ranges| !ranges.is_empty())
        .ok_or_else(|| {
            let expected = format!("a list of ranges `[start, end]` within 0..{count}");
            config.wrong("layer_replication", &expected)
        })?;
    let mut replicated = spec.clone();
    replicated.layers = ranges
        .into_iter()
        .flat_map(|[start, end]| start..end)
        .enumerate()
        .map(|(index, source)| renumbered(&spec.layers[source], index))
        .collect();
    Ok(replicated)
}

/// The layer with paths for `index`. The names of its base weights stay.
fn renumbered(layer: &Layer, index: usize) -> Layer {
    let mut copy = layer.clone();
    let stem = layer.path.rfind('.').map_or("", |dot| &layer.path[..dot]);
    let path = format!("{stem}.{index}");
    let move_to = |old: &mut String| {
        let rest = old[layer.path.len()..].to_owned();
        *old = format!("{path}{rest}");
    };
    for (name, _) in copy.names_mut() {
        move_to(name);
    }
    copy.path = path;
    copy
}
