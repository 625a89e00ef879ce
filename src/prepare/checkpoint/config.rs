//! `config.json` of a checkpoint: the base's, with the merge's changes.

use serde_json::{Value, json};

use super::layout::Layout;
use super::older_keys;
use crate::arch::DecoderSpec;
use crate::model::BaseModel;
use crate::prepared::Manifest;
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
    let mut config = with_size(base, spec.layers.len(), spec.vocab_size);
    let nested = is_nested(base);
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
    for &key in &layout.bias_keys {
        text[key] = json!(true);
    }
    if let Some(dtype) = dtype {
        set_dtype(&mut config, dtype);
    }
    forget_quantization(&mut config);
    if let Some(quantization) = quantization {
        config["quantization_config"] = quantization;
    }
    format!("{config:#}\n")
}

/// The `config.json` of a prepared variant: the base's, with as many layers as the variant has caches,
/// and its vocabulary.
pub fn model_config(base: &BaseModel, manifest: &Manifest) -> Value {
    let mut config = with_size(base, manifest.cache.len(), manifest.vocab_size);
    // The graph has its weights in forms of its own.
    forget_quantization(&mut config);
    config
}

/// Whether the base is a wrapper that keeps its text tower's keys apart.
fn is_nested(base: &BaseModel) -> bool {
    let text = base.config.json().get(TEXT);
    base.spec.tower.is_some() && text.is_some_and(Value::is_object)
}

/// The base's `config.json` with this number of layers and this size of the vocabulary, and with the
/// keys that older releases of Transformers read.
fn with_size(base: &BaseModel, layers: usize, vocab_size: usize) -> Value {
    let mut config = base.config.json().clone();
    let text = match is_nested(base) {
        true => &mut config[TEXT],
        false => &mut config,
    };
    if layers != base.spec.layers.len() {
        text["num_hidden_layers"] = json!(layers);
    }
    if vocab_size != base.spec.vocab_size {
        text["vocab_size"] = json!(vocab_size);
    }
    older_keys::add_older_keys(text);
    config
}

/// Removes the scheme of a base that's a quantized checkpoint, whose weights are dequantized.
fn forget_quantization(config: &mut Value) {
    const KEY: &str = "quantization_config";
    let text = config.get_mut(TEXT).and_then(Value::as_object_mut);
    if let Some(text) = text {
        text.remove(KEY);
    }
    if let Some(all) = config.as_object_mut() {
        all.remove(KEY);
    }
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
