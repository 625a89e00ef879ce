//! `config.json` of a checkpoint: the base's, with the merge's changes.

use serde_json::{Value, json};

use super::layout::Layout;
use crate::arch::DecoderSpec;
use crate::model::BaseModel;
use crate::weights::Dtype;

/// Keys for the weights' dtype in releases of Transformers, the newer one first.
const DTYPE_KEYS: [&str; 2] = ["dtype", "torch_dtype"];

/// A wrapper's key for its text tower.
const TEXT: &str = "text_config";

const TIED: &str = "tie_word_embeddings";

/// The file's text. `quantization` describes packed weights, if there are any.
pub fn text(
    base: &BaseModel,
    spec: &DecoderSpec,
    layout: &Layout,
    dtype: Option<Dtype>,
    quantization: Option<Value>,
) -> String {
    let mut config = base.config.json().clone();
    let nested = spec.tower.is_some() && config.get(TEXT).is_some_and(Value::is_object);
    if layout.tied != base.spec.tied() {
        config[TIED] = json!(layout.tied);
        // Some wrappers tie if either of the two keys is true.
        if nested {
            config[TEXT][TIED] = json!(layout.tied);
        }
    }
    let text = match nested {
        true => &mut config[TEXT],
        false => &mut config,
    };
    if spec.layers.len() != base.spec.layers.len() {
        text["num_hidden_layers"] = json!(spec.layers.len());
    }
    if spec.vocab_size != base.spec.vocab_size {
        text["vocab_size"] = json!(spec.vocab_size);
    }
    for &key in &layout.bias_keys {
        text[key] = json!(true);
    }
    if let Some(dtype) = dtype {
        set_dtype(&mut config, dtype);
    }
    if let Some(quantization) = quantization {
        config["quantization_config"] = quantization;
    }
    format!("{config:#}\n")
}

/// Updates the keys that exist. If there's none, the older one is added, which all releases read.
fn set_dtype(config: &mut Value, dtype: Dtype) {
    let present = DTYPE_KEYS.iter().filter(|key| config.get(key).is_some());
    let mut keys: Vec<&str> = present.copied().collect();
    if keys.is_empty() {
        keys.push("torch_dtype");
    }
    for key in keys {
        config[key] = json!(dtype);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dtype_is_written_to_the_keys_that_the_base_has() {
        for (mut before, after) in [
            (json!({"dtype": "float16"}), json!({"dtype": "float32"})),
            (
                json!({"torch_dtype": null}),
                json!({"torch_dtype": "float32"}),
            ),
            (json!({"a": 1}), json!({"a": 1, "torch_dtype": "float32"})),
            (
                json!({"torch_dtype": "bfloat16", "dtype": "bfloat16"}),
                json!({"torch_dtype": "float32", "dtype": "float32"}),
            ),
        ] {
            set_dtype(&mut before, Dtype::Float32);
            assert_eq!(before, after);
        }
    }
}
