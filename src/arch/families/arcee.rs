//! Arcee's AFM (`model_type: "arcee"`): Llama with a plain MLP.
//!
//! - `down_proj(max(up_proj(x), 0)^2)`
//!
//! Source: `modeling_arcee.py`, Hugging Face Transformers.

use super::llama::{self, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::{Activation, DecoderSpec};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "arcee",
    name: "AFM",
    special: "plain MLP with squared ReLU",
    refused: "",
    targets: DefaultTargets::NONE,
    nested_defaults: Some(
        r#"{"vocab_size": 32000, "hidden_size": 2560, "intermediate_size": 18432, "num_hidden_layers": 32,
            "num_attention_heads": 32}"#,
    ),
    shapes: &[Shape {
        name: "afm-4.5b",
        copies: Some("arcee-ai/AFM-4.5B-Base"),
        parameters: 4_619_184_640,
        config: r#"{"architectures": ["ArceeForCausalLM"], "attention_bias": false, "head_dim": 128,
            "hidden_act": "relu2", "hidden_size": 2560, "intermediate_size": 18432,
            "max_position_embeddings": 65536, "mlp_bias": false, "model_type": "arcee",
            "num_attention_heads": 20, "num_hidden_layers": 36, "num_key_value_heads": 4,
            "rms_norm_eps": 1e-05, "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0,
            "factor": 20.0, "mscale": 1.0, "original_max_position_embeddings": 4096,
            "rope_type": "yarn"}, "rope_theta": 10000.0, "tie_word_embeddings": false,
            "vocab_size": 128004}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        epsilon: ("rms_norm_eps", 1e-5),
        activation: ("hidden_act", Activation::Relu2),
        positions: 4096,
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    spec.make_mlps_plain(["mlp.up_proj", "mlp.down_proj"]);
    Ok(spec)
}
