//! Cartridge: trained keys and values in front of every layer's cache, usually initialised from
//! those of a text.
//!
//! The tensor, its shape and its place in the cache are prefix tuning's. The first
//! `num_frozen_tokens` rows, by default one, aren't trained, but the file holds them like the
//! others. A fresh one is `N(0, 1)`, as in PEFT before a text is loaded into it.
//!
//! Sources: Eyuboglu et al., arXiv:2506.06266; PEFT, `tuners/cartridge/`.

use super::prefix_tuning::{PrefixShape, prefix};
use super::{Class, Method};
use crate::adapter::toolbox::tuner::Loading;
use crate::adapter::{AdapterError, Effects, Init, PromptCounts};
use crate::graph::PROMPT_INPUT;
use crate::json::{ConfigError, JsonObject};

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "CARTRIDGE",
    class: Class::Unmergeable,
    variants: "num_frozen_tokens",
    refused: "batches of more than one, except in float32 on a GPU; `--swap`",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let Loading {
        config,
        base,
        tensors,
        ..
    } = loading;
    let PrefixShape { count, width, .. } = PrefixShape::read(config, base, tensors.is_fresh())?;
    let frozen = frozen_tokens(config, count)?;
    let counts = PromptCounts {
        trainable: (count - frozen) * width,
        frozen: frozen * width,
        saved: count * width,
    };
    let shape = vec![count, width];
    let values = tensors.take(PROMPT_INPUT, &shape, Init::Normal(1.0))?;
    Ok(prefix(shape, values, counts))
}

/// `num_frozen_tokens`, at most all `count`.
fn frozen_tokens(config: &JsonObject, count: usize) -> Result<usize, ConfigError> {
    let Some(value) = config.get("num_frozen_tokens") else {
        return Ok(1);
    };
    let found = value.as_u64().filter(|&frozen| frozen <= count as u64);
    let expected = format!("a number from 0 to `num_virtual_tokens`, {count}");
    match found {
        Some(frozen) => Ok(frozen as usize),
        None => Err(config.wrong("num_frozen_tokens", &expected)),
    }
}
