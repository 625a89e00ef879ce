//! BLOOM (`model_type: "bloom"`).
//!
//! - ALiBi instead of positions; a LayerNorm of the embedding.
//! - Queries, keys and values in one projection, grouped by head; biases everywhere.
//! - MLP of four times the hidden size, GELU with tanh.
//! - `apply_residual_connection_post_layernorm`: the residual is the norm's output.
//!
//! Source: `modeling_bloom.py`, Hugging Face Transformers.

use super::{DefaultTargets, Family, Shape};
use crate::arch::heads::Heads;
use crate::arch::{
    Activation, Alibi, Arrangement, Attention, DecoderSpec, Embedding, FusedRows, Layer, Linear,
    MOST_LAYERS, Mlp, Norm, NormKind, Position, Projections, alibi, read,
};
use crate::json::{ConfigError, JsonObject};

/// The number of positions that BLOOM was trained with; its configuration need not contain it.
const POSITIONS: usize = 2048;

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "bloom",
    name: "BLOOM",
    special: "ALiBi, norm of the embedding, fused projection by heads",
    refused: "",
    targets: DefaultTargets {
        adalora: &["query_key_value"],
        ia3: &["query_key_value", "mlp.dense_4h_to_h"],
        ia3_feedforward: &["mlp.dense_4h_to_h"],
        ln_tuning: &["input_layernorm", "post_attention_layernorm", "ln_f"],
        osf: &["query_key_value", "dense_4h_to_h"],
        ..DefaultTargets::alike(&["query_key_value"])
    },
    nested_defaults: None,
    shapes: &[Shape {
        name: "bloom-560m",
        copies: Some("bigscience/bloom-560m"),
        parameters: 559_214_592,
        config: r#"{"apply_residual_connection_post_layernorm": false,
            "architectures": ["BloomForCausalLM"], "hidden_size": 1024,
            "layer_norm_epsilon": 1e-05, "model_type": "bloom", "n_head": 16, "n_layer": 24,
            "seq_length": 2048, "vocab_size": 250880}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let hidden_size = config.size(read::either(config, ["hidden_size", "n_embed"]))?;
    let vocab_size = config.size("vocab_size")?;
    let heads = read::either(config, ["n_head", "num_attention_heads"]);
    let heads = Heads::even(config, heads, hidden_size)?;
    let epsilon = read::epsilon(config, "layer_norm_epsilon", 1e-5)?;
    let normed_residual = config.flag("apply_residual_connection_post_layernorm", false)?;
    let positions = config.optional_size("seq_length")?.unwrap_or(POSITIONS);
    let position = Position::Alibi(Alibi::exact(alibi::bloom(heads.queries)));

    let norm = |path: String| Norm::new(path, hidden_size, NormKind::Layer, epsilon);
    let count = read::either(config, ["n_layer", "num_hidden_layers"]);
    let layers = (0..config.size_up_to(count, MOST_LAYERS)?)
        .map(|index| {
            let path = format!("transformer.h.{index}");
            let at = |name: &str| format!("{path}.{name}");
            let linear = |name: &str, out, input| Linear::new(at(name), out, input, true);
            let attention = norm(at("input_layernorm"));
            let mlp = norm(at("post_attention_layernorm"));
            Layer {
                attention: Some(Attention {
                    position: position.clone(),
                    ..Attention::new(
                        heads,
                        Projections::Fused {
                            qkv: linear(
                                "self_attention.query_key_value",
                                3 * hidden_size,
                                hidden_size,
                            ),
                            rows: FusedRows::Groups,
                        },
                        linear("self_attention.dense", hidden_size, hidden_size),
                    )
                }),
                recurrence: None,
                mlp: Mlp::Plain {
                    fc1: linear("mlp.dense_h_to_4h", 4 * hidden_size, hidden_size),
                    fc2: linear("mlp.dense_4h_to_h", hidden_size, 4 * hidden_size),
                    activation: Activation::GeluTanh,
                },
                arrangement: match normed_residual {
                    true => Arrangement::normed_residual(attention, mlp),
                    false => Arrangement::before(attention, mlp),
                },
                residual_scale: None,
                path,
            }
        })
        .collect();
    let embedding = Embedding::new("transformer.word_embeddings", vocab_size, hidden_size);
    let lm_head = read::head(config, true, &embedding, "lm_head", false)?;
    let embedding_norm = norm("transformer.word_embeddings_layernorm".to_owned());
    Ok(DecoderSpec {
        base_prefix: "transformer.",
        embedding_norm: Some(embedding_norm),
        final_norm: Some(norm("transformer.ln_f".to_owned())),
        ..DecoderSpec::plain(config, positions, embedding, layers, lm_head)?
    })
}
