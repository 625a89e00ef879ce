//! Prefix tuning: trained keys and values in front of every layer's cache.
//!
//! | tensor | shape |
//! |---|---|
//! | `prompt_embeddings` | `[num_virtual_tokens, layers * 2 * num_key_value_heads * head_dim]` |
//!
//! Read as `[num_virtual_tokens, 2 * layers, num_key_value_heads, head_dim]`: entry `2 l` holds layer
//! `l`'s keys, `2 l + 1` its values. They enter the cache as they are, without rotary embedding; tokens'
//! positions count from `num_virtual_tokens`. A projection (`prefix_projection`) is applied when the
//! adapter is saved.
//!
//! Sources: Li and Liang, arXiv:2101.00190; PEFT, `tuners/prefix_tuning/`, `peft_model.py`.

use ndarray::{Array1, Array2};
use rand::rngs::StdRng;

use super::tuner::Loading;
use super::{AdapterError, BoundTensor, Effects, Init, Prompt};
use crate::graph::PROMPT_INPUT;
use crate::json_object::{ConfigError, JsonObject};

/// No encoder is wider; a fresh one is drawn.
const WIDEST_ENCODER: usize = 1 << 16;

/// Reads the adapter.
pub fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let Loading {
        config,
        base,
        tensors,
    } = loading;
    let count = config.size_up_to("num_virtual_tokens", base.spec.max_position_embeddings)?;
    let layers = base.spec.layers.len();
    let attention = &base.spec.layers[0].attention;
    let token_dim = attention.num_key_value_heads * attention.head_dim;
    expect(config, "num_layers", layers)?;
    // A configuration that PEFT has saved holds the sizes of keys and values.
    expect(config, "token_dim", token_dim)?;
    expect(config, "num_attention_heads", attention.num_key_value_heads)?;

    let width = layers * 2 * token_dim;
    let shape = vec![count, width];
    let projection = config.flag("prefix_projection", false)?;
    let hidden = config
        .optional_size_up_to("encoder_hidden_size", WIDEST_ENCODER)?
        .unwrap_or(token_dim);
    let zero = match config.optional_text("init_weights")? {
        None => false,
        Some("zero") => true,
        Some(_) => return Err(config.wrong("init_weights", "null or `zero`").into()),
    };
    let values = tensors.take_or(PROMPT_INPUT, &shape, |rng| {
        Ok(match (projection, zero) {
            (true, _) => projected([count, token_dim, hidden, width], rng),
            (false, true) => Init::Zeros.draw(count * width, rng),
            (false, false) => Init::Normal(1.0).draw(count * width, rng),
        })
    })?;
    let encoder_params = if projection {
        count * token_dim + (token_dim + 1) * hidden + (hidden + 1) * width
    } else {
        0
    };
    Ok(Effects {
        prompt: Some(Prompt::Prefix(BoundTensor {
            name: PROMPT_INPUT.to_owned(),
            shape,
            values,
        })),
        encoder_params,
        ..Default::default()
    })
}

fn expect(config: &JsonObject, key: &str, expected: usize) -> Result<(), ConfigError> {
    match config.optional_size(key)? {
        Some(found) if found != expected => {
            Err(config.wrong(key, &format!("{expected}, as this base model has it")))
        }
        _ => Ok(()),
    }
}

/// Fresh rows through a fresh encoder: `Linear`, tanh, `Linear`.
fn projected([count, token_dim, hidden, width]: [usize; 4], rng: &mut StdRng) -> Vec<f32> {
    let mut matrix = |rows: usize, columns: usize, init: Init| {
        Array2::from_shape_vec((rows, columns), init.draw(rows * columns, rng))
            .expect("`draw` gives as many values as asked for")
    };
    let embedded = matrix(count, token_dim, Init::Normal(1.0));
    let first = matrix(hidden, token_dim, Init::linear_default(token_dim));
    let first_bias = matrix(1, hidden, Init::linear_default(token_dim));
    let second = matrix(width, hidden, Init::linear_default(hidden));
    let second_bias: Array1<f32> = matrix(1, width, Init::linear_default(hidden))
        .row(0)
        .to_owned();
    let inner = (embedded.dot(&first.t()) + first_bias.row(0)).mapv(f32::tanh);
    (inner.dot(&second.t()) + &second_bias)
        .into_iter()
        .collect()
}
