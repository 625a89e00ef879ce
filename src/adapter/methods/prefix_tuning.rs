//! Prefix tuning: trained keys and values in front of every layer's cache.
//!
//! | tensor | shape |
//! |---|---|
//! | `prompt_embeddings` | `[num_virtual_tokens, layers * 2 * num_key_value_heads * head_dim]` |
//!
//! Reshaped to `[num_virtual_tokens, 2 * layers, num_key_value_heads, head_dim]`, entry `2 l` holds
//! layer `l`'s keys, `2 l + 1` its values. They enter the cache without rotary embedding; tokens'
//! positions count from `num_virtual_tokens`. PEFT applies a projection (`prefix_projection`) when
//! it saves the adapter.
//!
//! Sources: Li and Liang, arXiv:2101.00190; PEFT, `tuners/prefix_tuning/`, `peft_model.py`.

use rand::rngs::ChaCha12Rng;

use super::{Class, Method};
use crate::adapter::tensors::check_drawn;
use crate::adapter::toolbox::encoder::{hidden_size, linear, linear_params, matrix};
use crate::adapter::toolbox::tuner::Loading;
use crate::adapter::{AdapterError, BoundTensor, Effects, Init, Prompt, PromptCounts};
use crate::arch::Attention;
use crate::graph::PROMPT_INPUT;
use crate::json::{ConfigError, JsonObject};
use crate::model::BaseModel;

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "PREFIX_TUNING",
    class: Class::Unmergeable,
    variants: "prefix_projection",
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
    let PrefixShape {
        count,
        token_dim,
        width,
    } = PrefixShape::read(config, base, tensors.is_fresh())?;
    let projection = config.flag("prefix_projection", false)?;
    let hidden = hidden_size(config, token_dim)?;
    let zero = match config.optional_text("init_weights")? {
        None => false,
        Some("zero") => true,
        Some(_) => return Err(config.wrong("init_weights", "null or `zero`").into()),
    };
    let mut counts = PromptCounts::plain(count * width);
    if projection {
        let layers = linear_params(token_dim, hidden) + linear_params(hidden, width);
        counts.trainable = count * token_dim + layers;
    }
    let shape = vec![count, width];
    let values = tensors.take_or(PROMPT_INPUT, &shape, |rng| {
        check_drawn(config.path(), &[counts.trainable])?;
        Ok(match (projection, zero) {
            (true, _) => projected([count, token_dim, hidden, width], rng),
            (false, true) => Init::Zeros.draw(count * width, rng),
            (false, false) => Init::Normal(1.0).draw(count * width, rng),
        })
    })?;
    Ok(prefix(shape, values, counts))
}

/// The sizes of a prefix.
#[derive(Debug, Clone, Copy)]
pub struct PrefixShape {
    /// The number of virtual tokens.
    pub count: usize,
    /// The width of one layer's keys, which is that of its values.
    pub token_dim: usize,
    /// The width of all layers' keys and values.
    pub width: usize,
}

impl PrefixShape {
    /// Reads `num_virtual_tokens`, and checks the sizes of keys and values, which PEFT saves, too.
    /// A `fresh` configuration may have other sizes, such as the hidden size: PEFT overwrites them
    /// if the base's configuration has `num_key_value_heads` (`_prepare_prompt_learning_config`).
    ///
    /// # Errors
    /// If the sizes aren't those of `base`, or its layers keep something else.
    pub fn read(config: &JsonObject, base: &BaseModel, fresh: bool) -> Result<Self, ConfigError> {
        let count = config.size_up_to("num_virtual_tokens", base.spec.max_position_embeddings)?;
        let layers = base.spec.layers.len();
        let attention = match base.spec.widest_attention() {
            Some(attention) if !base.spec.has_states() => attention,
            _ => {
                let reason = format!(
                    "layers of a `{}` have states instead of keys and values, which a prefix consists of; PEFT fails, too",
                    base.spec.model_type
                );
                return Err(config.refused("peft_type", &reason));
            }
        };
        if base.spec.has_latent_attention() {
            let reason = format!(
                "Transformers keeps compressed keys and values of a `{}`, which a prefix doesn't fit; PEFT fails, too",
                base.spec.model_type
            );
            return Err(config.refused("peft_type", &reason));
        }
        let more = |other: &Attention| other.num_key_value_heads > attention.num_key_value_heads;
        if base.spec.attentions().any(more) {
            let reason = format!(
                "PEFT makes a prefix as wide as the widest heads of a `{}`, and leaves out the layers with more of them, whose \
                 sequences are shorter then",
                base.spec.model_type
            );
            return Err(config.refused("peft_type", &reason));
        }
        let token_dim = attention.num_key_value_heads * attention.head_dim;
        expect(config, "num_layers", layers)?;
        let overwritten = fresh && base.config.get("num_key_value_heads").is_some();
        if !overwritten {
            expect(config, "token_dim", token_dim)?;
            expect(config, "num_attention_heads", attention.num_key_value_heads)?;
        }
        Ok(Self {
            count,
            token_dim,
            width: layers * 2 * token_dim,
        })
    }
}

/// An adapter that adds rows to the cache only.
pub fn prefix(shape: Vec<usize>, values: Vec<f32>, counts: PromptCounts) -> Effects {
    Effects {
        prompt: Some(Prompt::Prefix(BoundTensor {
            name: PROMPT_INPUT.to_owned(),
            shape,
            values,
        })),
        prompt_counts: counts,
        ..Default::default()
    }
}

fn expect(config: &JsonObject, key: &str, expected: usize) -> Result<(), ConfigError> {
    match config.optional_size(key)? {
        Some(found) if found != expected => {
            Err(config.wrong(key, &format!("{expected}, as in this base model")))
        }
        _ => Ok(()),
    }
}

/// Applies a fresh encoder, `Linear`, tanh, `Linear`, to fresh rows.
fn projected([count, token_dim, hidden, width]: [usize; 4], rng: &mut ChaCha12Rng) -> Vec<f32> {
    let embedded = matrix(count, token_dim, Init::Normal(1.0), rng);
    let inner = linear(&embedded, hidden, rng).mapv_into(f32::tanh);
    linear(&inner, width, rng).into_iter().collect()
}
