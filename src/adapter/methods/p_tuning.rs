//! P-tuning: virtual tokens that a small network computes from trained rows.
//!
//! | tensor | shape |
//! |---|---|
//! | `prompt_embeddings` | `[num_virtual_tokens, embedding_dim]` |
//!
//! PEFT saves the network's output, not the network, so inference is prompt tuning's. With `d` the
//! width of an embedding and `h` `encoder_hidden_size`:
//!
//! - `MLP`: `Linear(d, h)`, ReLU, `Linear(h, h)`, ReLU, `Linear(h, d)`, whatever
//!   `encoder_num_layers` is
//! - `LSTM`: `encoder_num_layers` bidirectional layers over the tokens, then `Linear(2h, 2h)`,
//!   ReLU, `Linear(2h, d)`
//!
//! A fresh adapter has `N(0, 1)` rows, and PyTorch's initial values in the network.
//!
//! Sources: Liu et al., arXiv:2103.10385; PEFT, `tuners/p_tuning/`.

use rand::rngs::ChaCha12Rng;

use super::prompt_tuning::{token_dim, virtual_tokens};
use super::{Class, Method};
use crate::adapter::tensors::check_drawn;
use crate::adapter::toolbox::encoder::{
    bidirectional_lstm, bidirectional_lstm_params, hidden_size, linear, linear_params, matrix, relu,
};
use crate::adapter::toolbox::tuner::Loading;
use crate::adapter::{AdapterError, Effects, Init, PromptCounts};
use crate::graph::PROMPT_INPUT;
use crate::json::{ConfigError, JsonObject};

/// The largest number of layers of an encoder.
const MOST_LAYERS: usize = 256;

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "P_TUNING",
    class: Class::Unmergeable,
    variants: "MLP, LSTM",
    refused: "",
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
    let count = config.size_up_to("num_virtual_tokens", base.spec.max_position_embeddings)?;
    let width = token_dim(config, base)?;
    let encoder = Encoder::read(config, width)?;
    let trainable = count * width + encoder.params(width);
    let shape = vec![count, width];
    let values = tensors.take_or(PROMPT_INPUT, &shape, |rng| {
        check_drawn(config.path(), &[trainable])?;
        Ok(encoder.fresh(count, width, rng))
    })?;
    let counts = PromptCounts {
        trainable,
        ..PromptCounts::plain(count * width)
    };
    Ok(virtual_tokens(shape, values, counts))
}

/// The network.
#[derive(Debug, Clone, Copy)]
enum Encoder {
    Mlp { hidden: usize },
    Lstm { hidden: usize, layers: usize },
}

impl Encoder {
    fn read(config: &JsonObject, width: usize) -> Result<Self, ConfigError> {
        let hidden = hidden_size(config, width)?;
        let layers = config.optional_size_up_to("encoder_num_layers", MOST_LAYERS)?;
        let kind = "encoder_reparameterization_type";
        match config.optional_text(kind)? {
            None | Some("MLP") => Ok(Self::Mlp { hidden }),
            Some("LSTM") => Ok(Self::Lstm {
                hidden,
                layers: layers.unwrap_or(2),
            }),
            Some(_) => Err(config.wrong(kind, "`MLP` or `LSTM`")),
        }
    }

    fn params(self, width: usize) -> usize {
        match self {
            Self::Mlp { hidden } => {
                let ends = linear_params(width, hidden) + linear_params(hidden, width);
                ends + linear_params(hidden, hidden)
            }
            Self::Lstm { hidden, layers } => {
                let inner = (layers - 1) * bidirectional_lstm_params(2 * hidden, hidden);
                let head = linear_params(2 * hidden, 2 * hidden) + linear_params(2 * hidden, width);
                bidirectional_lstm_params(width, hidden) + inner + head
            }
        }
    }

    fn fresh(self, count: usize, width: usize, rng: &mut ChaCha12Rng) -> Vec<f32> {
        let mut x = matrix(count, width, Init::Normal(1.0), rng);
        match self {
            Self::Mlp { hidden } => {
                x = relu(linear(&x, hidden, rng));
                x = relu(linear(&x, hidden, rng));
            }
            Self::Lstm { hidden, layers } => {
                for _ in 0..layers {
                    x = bidirectional_lstm(&x, hidden, rng);
                }
                x = relu(linear(&x, 2 * hidden, rng));
            }
        }
        linear(&x, width, rng).into_iter().collect()
    }
}
