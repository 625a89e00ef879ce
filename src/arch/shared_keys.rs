//! Layers that attend to the keys and values of another layer, in Gemma 3n and 4.

use super::{DecoderSpec, HeadNorm, Norm, NormKind, NormOver, Projections, read};
use crate::json::{ConfigError, JsonObject};

/// Gives the last `num_kv_shared_layers` layers the keys and values of the last earlier layer of
/// their type; `sliding` has the type of each layer.
pub fn share(
    config: &JsonObject,
    spec: &mut DecoderSpec,
    sliding: &[bool],
    default: usize,
) -> Result<(), ConfigError> {
    const KEY: &str = "num_kv_shared_layers";
    let count = read::count(config, KEY, default)?;
    let wrong = || {
        let expected = "a number that leaves a layer of each type with keys of its own";
        config.wrong(KEY, expected)
    };
    let own = spec.layers.len().checked_sub(count).ok_or_else(wrong)?;
    for index in own..spec.layers.len() {
        let mut earlier = (0..own).rev();
        let layer = earlier.find(|&earlier| sliding[earlier] == sliding[index]);
        let layer = layer.ok_or_else(wrong)?;
        let Some(attention) = &mut spec.layers[index].attention else {
            continue;
        };
        attention.value_norm = None;
        if let Projections::Separate { query, .. } | Projections::KeyIsValue { query, .. } =
            &attention.projections
        {
            let query = query.clone();
            attention.projections = Projections::OfLayer { query, layer };
        }
    }
    Ok(())
}

/// Gives values a norm of each head, without a weight.
pub fn norm_values(spec: &mut DecoderSpec) {
    for layer in &mut spec.layers {
        let path = format!("{}.self_attn.v_norm", layer.path);
        let epsilon = layer.arrangement.first_norm().epsilon;
        if let Some(attention) = &mut layer.attention {
            let kind = NormKind::RmsWithoutParameters;
            attention.value_norm = Some(HeadNorm {
                norm: Norm::new(path, attention.head_dim, kind, epsilon),
                over: NormOver::Head,
            });
        }
    }
}
