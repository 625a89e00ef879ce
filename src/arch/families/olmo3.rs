//! OLMo 3 (`model_type: "olmo3"`): OLMo 2 with windows.
//!
//! - Three of four layers have a window of `sliding_window` tokens, unless `layer_types` says
//!   otherwise.
//! - A scaling of the rotary embedding applies to the layers without a window only.
//!   `rope_parameters` has an entry for each kind of layer.
//!
//! Source: `modeling_olmo3.py`, `configuration_olmo3.py`, Hugging Face Transformers.

use serde_json::json;

use super::olmo2;
use super::{DefaultTargets, Family, Shape};
use crate::arch::rope::{self, RopeDefaults};
use crate::arch::{DecoderSpec, RotarySpec, windows};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "olmo3",
    name: "OLMo 3",
    special: "OLMo 2 with sliding windows, and rotary scaling in the other layers",
    refused: "",
    targets: DefaultTargets::NONE,
    nested_defaults: Some(
        r#"{"vocab_size": 50304, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32}"#,
    ),
    shapes: &[Shape {
        name: "olmo-3-7b",
        copies: Some("allenai/Olmo-3-1025-7B"),
        parameters: 7_298_011_136,
        config: r#"{"architectures": ["Olmo3ForCausalLM"], "attention_bias": false,
            "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 11008,
            "max_position_embeddings": 65536, "model_type": "olmo3", "num_attention_heads": 32,
            "num_hidden_layers": 32, "num_key_value_heads": 32, "rms_norm_eps": 1e-06,
            "rope_scaling": {"attention_factor": 1.2079441541679836, "beta_fast": 32.0,
            "beta_slow": 1.0, "factor": 8.0, "original_max_position_embeddings": 8192,
            "rope_type": "yarn"}, "rope_theta": 500000, "sliding_window": 4096,
            "tie_word_embeddings": false, "vocab_size": 100278}"#,
    }],
    read: spec,
};

/// The default base.
const THETA: f64 = 500_000.0;

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    // The rotary embedding is read below; OLMo 2's reading knows one kind of layer only.
    let one_kind = config.with("rope_parameters", json!(null));
    let mut spec = olmo2::decoder(&one_kind.with("rope_scaling", json!(null)))?;
    let otherwise = |layer: usize| !(layer + 1).is_multiple_of(4);
    let sliding = windows::sliding(config, spec.layers.len(), otherwise)?;
    let window = windows::size_for(config, &sliding, 4096)?;
    windows::set(&mut spec, &sliding, window);
    let head_dim = spec.first_attention().map_or(0, |first| first.head_dim);
    let rotations = rotations(config, head_dim)?;
    windows::rotate_by_kind(&mut spec, &sliding, rotations);
    Ok(spec)
}

/// The rotary embeddings `[of layers without a window, of layers with one]`, read as
/// `Olmo3Config.convert_rope_params_to_dict` does: the older `rope_scaling` and `rope_theta` are
/// those of the layers without a window, and `rope_parameters` without entries for the kinds of
/// layers has no effect.
fn rotations(config: &JsonObject, head_dim: usize) -> Result<[RotarySpec; 2], ConfigError> {
    let parameters = config.optional_object("rope_parameters")?;
    let entry = |kind: &str| {
        let found = match &parameters {
            Some(parameters) => parameters.optional_object(kind)?,
            None => None,
        };
        Ok(found.unwrap_or_else(|| JsonObject::of(config.path(), json!({"rope_type": "default"}))))
    };
    let mut full = entry("full_attention")?;
    let local = entry("sliding_attention")?;
    if let Some(scaling) = config.optional_object("rope_scaling")? {
        for (key, value) in scaling.json().as_object().into_iter().flatten() {
            full = full.with(key, value.clone());
        }
    }
    // YaRN's `truncate` is read next to the two entries.
    let truncate = match &parameters {
        Some(parameters) => parameters.flag("truncate", true)?,
        None => true,
    };
    let defaults = |key| RopeDefaults {
        theta: (THETA, key),
        ..RopeDefaults::default()
    };
    let read = |entry: JsonObject, key| {
        let entry = entry.with("truncate", truncate.into());
        rope::with_parameters(config, Some(entry), head_dim, &defaults(key))
    };
    // No key outside of the entry gives the base of layers with a window.
    let local = match local.get("rope_theta") {
        Some(_) => local,
        None => local.with("rope_theta", THETA.into()),
    };
    Ok([read(full, "rope_theta")?, read(local, "rope_theta")?])
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(config: serde_json::Value) -> [RotarySpec; 2] {
        rotations(&JsonObject::of(Path::new("x"), config), 16).unwrap()
    }

    #[test]
    fn older_keys_are_those_of_layers_without_a_window() {
        let scaling = json!({"rope_type": "linear", "factor": 4.0});
        let [full, local] = read(json!({"rope_theta": 100.0, "rope_scaling": scaling}));
        let plain = |theta| RotarySpec::plain(theta, 16, rope::Pairs::Halves);
        assert_eq!(local, plain(THETA));
        assert_eq!(full.inv_freq[0], 0.25);
        let [full, local] = read(json!({"rope_theta": 100.0}));
        assert_eq!([full, local], [plain(100.0), plain(THETA)]);
    }

    #[test]
    fn parameters_for_no_kind_of_layer_have_no_effect() {
        let flat = json!({"rope_type": "linear", "factor": 4.0, "rope_theta": 100.0});
        let [full, local] = read(json!({"rope_parameters": flat}));
        assert_eq!(full, local);
        assert_eq!(full, RotarySpec::plain(THETA, 16, rope::Pairs::Halves));
    }
}
