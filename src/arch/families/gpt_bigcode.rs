//! StarCoder's first models, SantaCoder (`model_type: "gpt_bigcode"`): GPT-2 with two changes.
//!
//! - `multi_query`: one key head, and the fused projection's rows are all queries, the key, the
//!   value. Without it, the rows are grouped by head.
//! - Weights are stored as `[out_features, in_features]`.
//!
//! Source: `modeling_gpt_bigcode.py`, Hugging Face Transformers.

use super::gpt2;
use super::{DefaultTargets, Family, Shape};
use crate::arch::{DecoderSpec, FusedRows, Projections, Stored};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "gpt_bigcode",
    name: "StarCoder, SantaCoder",
    special: "one key head, fused projection, learned positions",
    refused: "`add_cross_attention`",
    targets: DefaultTargets {
        spectral: &["mlp.c_proj"],
        adalora: &["c_attn"],
        ia3: &["c_attn", "mlp.c_proj"],
        ia3_feedforward: &["mlp.c_proj"],
        osf: &["c_attn", "c_proj"],
        ..DefaultTargets::alike(&["c_attn"])
    },
    nested_defaults: None,
    shapes: &[Shape {
        name: "starcoderbase-1b",
        copies: Some("bigcode/starcoderbase-1b"),
        parameters: 1_137_207_296,
        config: r#"{"activation_function": "gelu_pytorch_tanh", "architectures": ["GPTBigCodeForCausalLM"],
            "layer_norm_epsilon": 1e-05, "model_type": "gpt_bigcode", "multi_query": true,
            "n_embd": 2048, "n_head": 16, "n_inner": 8192, "n_layer": 24, "n_positions": 8192,
            "scale_attn_weights": true, "vocab_size": 49152}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    // An option of GPT-2 alone.
    let config = config
        .clone()
        .with("scale_attn_by_inverse_layer_idx", false.into());
    let mut spec = gpt2::spec(&config)?;
    let multi_query = config.flag("multi_query", true)?;
    for layer in &mut spec.layers {
        let Some(attention) = &mut layer.attention else {
            continue;
        };
        if multi_query {
            attention.num_key_value_heads = 1;
        }
        let heads = attention.num_attention_heads + 2 * attention.num_key_value_heads;
        let width = heads * attention.head_dim;
        if let Projections::Fused { qkv, rows } = &mut attention.projections {
            qkv.out_features = width;
            *rows = match multi_query {
                true => FusedRows::Kinds,
                false => FusedRows::Groups,
            };
        }
        let linears = attention.linears_mut().into_iter();
        for linear in linears.chain(layer.mlp.linears_mut()) {
            linear.stored = Stored::OutIn;
        }
    }
    Ok(spec)
}
