//! Keys of `config.json` that several families read in the same way.

use super::{Activation, Embedding, Linear};
use crate::json::{ConfigError, JsonObject};

/// Reads a norm's epsilon.
pub fn epsilon(config: &JsonObject, key: &str, default: f64) -> Result<f64, ConfigError> {
    match config.optional_number(key)?.unwrap_or(default) {
        epsilon if epsilon >= 0.0 => Ok(epsilon),
        _ => Err(config.wrong(key, "a number of at least 0")),
    }
}

/// Reads a positive number, if `key` exists.
pub fn positive(config: &JsonObject, key: &str) -> Result<Option<f64>, ConfigError> {
    match config.optional_number(key)? {
        Some(number) if number <= 0.0 => Err(config.wrong(key, "a positive number")),
        number => Ok(number),
    }
}

/// Reads an activation by its name.
pub fn activation(
    config: &JsonObject,
    key: &str,
    default: Activation,
) -> Result<Activation, ConfigError> {
    match config.optional_text(key)? {
        None => Ok(default),
        Some(name) => {
            Activation::from_name(name).ok_or_else(|| config.wrong(key, Activation::NAMES))
        }
    }
}

/// The head at `path`; its weight is the embedding's if `tie_word_embeddings` is true.
pub fn head(
    config: &JsonObject,
    tied_by_default: bool,
    embedding: &Embedding,
    path: &str,
    bias: bool,
) -> Result<Linear, ConfigError> {
    let tied = config.flag("tie_word_embeddings", tied_by_default)?;
    let head = Linear::new(
        path.to_owned(),
        embedding.num_embeddings,
        embedding.embedding_dim,
        bias,
    );
    Ok(match tied {
        true => Linear {
            source: embedding.source.clone(),
            tied: true,
            ..head
        },
        false => head,
    })
}

/// Refuses `key` if it's `true`.
pub fn must_be_off(config: &JsonObject, key: &str, reason: &str) -> Result<(), ConfigError> {
    match config.flag(key, false)? {
        true => Err(config.refused(key, reason)),
        false => Ok(()),
    }
}

/// The first of `keys` that `config` has, else the first one: families have renamed their keys.
pub fn either<'a>(config: &JsonObject, keys: [&'a str; 2]) -> &'a str {
    let has = |key: &&str| config.get(key).is_some();
    keys.into_iter().find(has).unwrap_or(keys[0])
}

/// Which layers have experts: every `decoder_sparse_step`-th one, except `mlp_only_layers`.
pub fn sparse_layers(config: &JsonObject) -> Result<impl Fn(usize) -> bool, ConfigError> {
    let step = config.optional_size("decoder_sparse_step")?.unwrap_or(1);
    let dense: Vec<usize> = match config.get("mlp_only_layers") {
        None => Vec::new(),
        Some(list) => serde_json::from_value(list.clone())
            .map_err(|_| config.wrong("mlp_only_layers", "a list of layers"))?,
    };
    Ok(move |layer: usize| (layer + 1).is_multiple_of(step) && !dense.contains(&layer))
}

/// A number of layers or experts that may be 0.
pub fn count(config: &JsonObject, key: &str, default: usize) -> Result<usize, ConfigError> {
    match config.get(key) {
        None => Ok(default),
        Some(value) => value
            .as_u64()
            .and_then(|number| usize::try_from(number).ok())
            .ok_or_else(|| config.wrong(key, "a whole number of at least 0")),
    }
}

/// Adds `defaults`, a JSON object, for the keys that `config` doesn't have.
pub fn with_defaults(config: JsonObject, defaults: &str) -> JsonObject {
    let mut completed = config;
    for (key, value) in object(defaults) {
        if completed.json().get(&key).is_none() {
            completed = completed.with(&key, value);
        }
    }
    completed
}

/// Parses a JSON object of the tables.
pub fn object(json: &str) -> serde_json::Map<String, serde_json::Value> {
    serde_json::from_str(json).expect("the tables hold JSON objects")
}
