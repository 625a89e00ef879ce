//! `layer_replication`: a deeper model from the base's layers.
//!
//! `[[a, b], …]`: the new layers are the base's half-open ranges `[a, b)`, one after the other. A
//! layer and its replicas share base weights; their adapters are separate, and named by the new
//! indices.
//!
//! Source: PEFT, `tuners/tuners_utils.py`, `replicate_layers`.

use std::mem::discriminant;

use crate::arch::{DecoderSpec, Layer};
use crate::json::{ConfigError, JsonObject};

/// The architecture after `layer_replication`.
///
/// # Errors
/// If it isn't a list of such ranges within the base's layers, or if these differ in more than their
/// weights and their MLPs.
pub fn replicate(config: &JsonObject, spec: &DecoderSpec) -> Result<DecoderSpec, ConfigError> {
    const KEY: &str = "layer_replication";
    let Some(value) = config.get(KEY) else {
        return Ok(spec.clone());
    };
    if spec.has_more_than_a_stream() {
        let reason = "layers of this model take more than the layer before gives";
        return Err(config.refused(KEY, reason));
    }
    if !spec
        .layers
        .iter()
        .all(|layer| mixes_alike(layer, &spec.layers[0]))
    {
        let reason = "layers of this model mix tokens in different ways, and Transformers takes a layer's way from \
            its new place";
        return Err(config.refused(KEY, reason));
    }
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
            config.wrong(KEY, &expected)
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

/// Whether two layers mix tokens in the same way: with the same kind of mixer, window and positions.
fn mixes_alike(a: &Layer, b: &Layer) -> bool {
    let recurrence = |layer: &Layer| layer.recurrence.as_ref().map(discriminant);
    let attention = match (&a.attention, &b.attention) {
        (Some(a), Some(b)) => {
            (a.window, a.chunk) == (b.window, b.chunk)
                && a.position == b.position
                && a.keys_of_layer() == b.keys_of_layer()
        }
        (a, b) => a.is_none() && b.is_none(),
    };
    attention && recurrence(a) == recurrence(b)
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
