//! StarCoder2 (`model_type: "starcoder2"`): Llama with LayerNorm and a plain perceptron.
//!
//! - `c_proj(act(c_fc(x)))`, GELU with tanh.
//! - Biases everywhere with `use_bias`.
//! - A token sees `sliding_window` tokens, where that isn't null.
//!
//! Source: `modeling_starcoder2.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use crate::arch::{Activation, DecoderSpec, NormKind, windows};
use crate::json::{ConfigError, JsonObject};

/// Reads the architecture from `config.json`.
pub fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let bias = Bias::Key("use_bias", true);
    let differences = Differences {
        norm: NormKind::Layer,
        epsilon: ("norm_epsilon", 1e-5),
        qkv_bias: bias,
        output_bias: bias,
        mlp_bias: bias,
        tied: true,
        activation: ("hidden_act", Activation::GeluTanh),
        key_value_heads: Some(2),
        positions: 4096,
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    spec.make_mlps_plain(["mlp.c_fc", "mlp.c_proj"]);
    let window = windows::size(config, None)?;
    let every = vec![true; spec.layers.len()];
    windows::set(&mut spec, &every, window);
    Ok(spec)
}
