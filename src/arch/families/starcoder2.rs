//! StarCoder2 (`model_type: "starcoder2"`): Llama with LayerNorm and a plain MLP.
//!
//! - `c_proj(act(c_fc(x)))`, GELU with tanh.
//! - Biases everywhere with `use_bias`.
//! - A window of `sliding_window` tokens, unless it's null.
//!
//! Source: `modeling_starcoder2.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::{Activation, DecoderSpec, NormKind, windows};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "starcoder2",
    name: "StarCoder2",
    special: "LayerNorm, biases, plain MLP, sliding window",
    refused: "",
    targets: DefaultTargets::NONE,
    nested_defaults: None,
    shapes: &[Shape {
        name: "starcoder2-3b",
        copies: Some("bigcode/starcoder2-3b"),
        parameters: 3_030_371_328,
        config: r#"{"architectures": ["Starcoder2ForCausalLM"], "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": 3072, "intermediate_size": 12288, "max_position_embeddings": 16384,
            "model_type": "starcoder2", "norm_epsilon": 1e-05, "num_attention_heads": 24,
            "num_hidden_layers": 30, "num_key_value_heads": 2, "rope_theta": 999999.4420358813,
            "sliding_window": 4096, "tie_word_embeddings": true, "use_bias": true,
            "vocab_size": 49152}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
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
