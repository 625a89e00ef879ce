//! GPT-Neo (`model_type: "gpt_neo"`): GPT-2 with four changes.
//!
//! - Separate projections of queries, keys and values, without biases.
//! - Scores aren't scaled.
//! - Layers of the type `local` have a window of `window_size` tokens. `attention_types` holds lists
//!   of types and how often each is repeated: `[[["global", "local"], 12]]`.
//! - Weights are stored as `[out_features, in_features]`.
//!
//! Source: `modeling_gpt_neo.py`, `configuration_gpt_neo.py`, Hugging Face Transformers.

use serde_json::Value;

use super::{DefaultTargets, Family, Shape, gpt2};
use crate::arch::heads::Heads;
use crate::arch::{
    Activation, Arrangement, Attention, Declared, DecoderSpec, Layer, Linear, MOST_LAYERS, Mlp,
    Norm, NormKind, Projections, read,
};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "gpt_neo",
    name: "GPT-Neo",
    special: "unscaled scores, alternating sliding windows, learned positions",
    refused: "",
    targets: DefaultTargets {
        adalora: &["q_proj", "v_proj"],
        beft: &["v_proj"],
        ia3: &["q_proj", "v_proj", "c_proj"],
        ia3_feedforward: &["c_proj"],
        ..DefaultTargets::alike(&["q_proj", "v_proj"])
    },
    nested_defaults: None,
    shapes: &[Shape {
        name: "gpt-neo-125m",
        copies: Some("EleutherAI/gpt-neo-125m"),
        parameters: 125_198_592,
        config: r#"{"activation_function": "gelu_new", "architectures": ["GPTNeoForCausalLM"],
            "attention_types": [[["global", "local"], 6]], "hidden_size": 768,
            "intermediate_size": null, "layer_norm_epsilon": 1e-05, "max_position_embeddings": 2048,
            "model_type": "gpt_neo", "num_heads": 12, "num_layers": 12, "vocab_size": 50257,
            "window_size": 256}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let hidden_size = config.size("hidden_size")?;
    let inner_size = config
        .optional_size("intermediate_size")?
        .unwrap_or(4 * hidden_size);
    let positions = config
        .optional_size("max_position_embeddings")?
        .unwrap_or(2048);
    let heads = read::either(config, ["num_heads", "num_attention_heads"]);
    let heads = Heads::even(config, heads, hidden_size)?;
    let epsilon = read::epsilon(config, "layer_norm_epsilon", 1e-5)?;
    let activation = read::activation(config, "activation_function", Activation::GeluTanh)?;
    let window = config.optional_size("window_size")?.unwrap_or(256);
    let count = read::either(config, ["num_layers", "num_hidden_layers"]);
    let local = local_layers(config, config.size_up_to(count, MOST_LAYERS)?)?;

    let norm = |path: String| Norm::new(path, hidden_size, NormKind::Layer, epsilon);
    let layers = local
        .into_iter()
        .enumerate()
        .map(|(index, local)| {
            let path = format!("transformer.h.{index}");
            let at = |name: &str| format!("{path}.{name}");
            let square = |name: &str, bias| Linear::new(at(name), hidden_size, hidden_size, bias);
            Layer {
                attention: Some(Attention {
                    declared: Declared::KeyFirst,
                    scale: 1.0,
                    window: local.then_some(window),
                    ..Attention::new(
                        heads,
                        Projections::Separate {
                            query: square("attn.attention.q_proj", false),
                            key: square("attn.attention.k_proj", false),
                            value: square("attn.attention.v_proj", false),
                        },
                        square("attn.attention.out_proj", true),
                    )
                }),
                recurrence: None,
                mlp: Mlp::Plain {
                    fc1: Linear::new(at("mlp.c_fc"), inner_size, hidden_size, true),
                    fc2: Linear::new(at("mlp.c_proj"), hidden_size, inner_size, true),
                    activation,
                },
                arrangement: Arrangement::before(norm(at("ln_1")), norm(at("ln_2"))),
                residual_scale: None,
                path,
            }
        })
        .collect();
    gpt2::around(
        config,
        positions,
        layers,
        norm("transformer.ln_f".to_owned()),
    )
}

/// For each layer, whether it's `local`. `attention_layers` has one type per layer, or
/// `attention_types` has them in short.
fn local_layers(config: &JsonObject, layers: usize) -> Result<Vec<bool>, ConfigError> {
    let (key, types) = match (
        config.optional_texts("attention_layers")?,
        config.get("attention_types"),
    ) {
        (Some(types), _) => ("attention_layers", Some(types)),
        (None, Some(short)) => ("attention_types", expanded(short, layers)),
        (None, None) => {
            let alternating = ["global", "local"].map(str::to_owned);
            let types = alternating.into_iter().cycle().take(24).collect();
            ("attention_types", Some(types))
        }
    };
    let is_local = |kind: &String| match kind.as_str() {
        "local" => Some(true),
        "global" => Some(false),
        _ => None,
    };
    let local: Option<Vec<bool>> = types.and_then(|types| types.iter().map(is_local).collect());
    local.filter(|local| local.len() == layers).ok_or_else(|| {
        let expected = format!("`global` or `local` for each of the {layers} layers");
        config.wrong(key, &expected)
    })
}

/// The types of at most `most` layers, each as often as `short` says.
fn expanded(short: &Value, most: usize) -> Option<Vec<String>> {
    let mut all = Vec::new();
    for item in short.as_array()? {
        let [types, count] = item.as_array()?.as_slice() else {
            return None;
        };
        let types: Option<Vec<&str>> = types.as_array()?.iter().map(Value::as_str).collect();
        let types = types?;
        let count = usize::try_from(count.as_u64()?).ok()?;
        let total = types.len().checked_mul(count)?.checked_add(all.len())?;
        if total > most {
            return None;
        }
        for _ in 0..count {
            all.extend(types.iter().map(|&kind| kind.to_owned()));
        }
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    #[test]
    fn the_types_of_layers_are_read_from_either_key() {
        let read = |config: Value| local_layers(&JsonObject::of(Path::new("x"), config), 4);
        let alternating = [false, true, false, true];
        let short = json!({"attention_types": [[["global", "local"], 2]]});
        assert_eq!(read(short).unwrap(), alternating);
        let two = json!({"attention_types": [[["local"], 3], [["global"], 1]]});
        assert_eq!(read(two).unwrap(), [true, true, true, false]);
        let long = json!({"attention_layers": ["global", "local", "global", "local"]});
        assert_eq!(read(long).unwrap(), alternating);
        for wrong in [
            json!({}),
            json!({"attention_types": [[["global", "local"], 1000000000000_u64]]}),
            json!({"attention_types": [["global"], 4]}),
            json!({"attention_layers": ["global", "linear", "global", "local"]}),
        ] {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
