//! GPT-NeoX and Pythia (`model_type: "gpt_neox"`).
//!
//! - Attention and MLP in parallel, each after its own LayerNorm; one after the other if
//!   `use_parallel_residual` is false.
//! - Queries, keys and values in one projection, grouped by head.
//! - The fraction `rotary_pct` of each head is rotated, a quarter by default.
//! - Biases everywhere, on attention unless `attention_bias` is false.
//! - Checkpoints call the head `embed_out`.
//!
//! Source: `modeling_gpt_neox.py`, `conversion_mapping.py`, Hugging Face Transformers.

use super::{DefaultTargets, Family, Shape};
use crate::arch::heads::Heads;
use crate::arch::rope::{self, RopeDefaults};
use crate::arch::{
    Activation, Arrangement, Attention, DecoderSpec, Embedding, FusedRows, Layer, Linear,
    MOST_LAYERS, Mlp, Norm, NormKind, Position, Projections, read,
};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "gpt_neox",
    name: "GPT-NeoX, Pythia",
    special: "parallel residual with two norms, fused projection by heads, partial rotary positions",
    refused: "",
    targets: DefaultTargets {
        adalora: &["query_key_value"],
        ia3: &["query_key_value", "dense_4h_to_h"],
        ia3_feedforward: &["dense_4h_to_h"],
        osf: &["query_key_value", "dense_4h_to_h"],
        ..DefaultTargets::alike(&["query_key_value"])
    },
    nested_defaults: None,
    shapes: &[Shape {
        name: "pythia-160m",
        copies: Some("EleutherAI/pythia-160m"),
        parameters: 162_322_944,
        config: r#"{"architectures": ["GPTNeoXForCausalLM"], "hidden_act": "gelu", "hidden_size": 768,
            "intermediate_size": 3072, "layer_norm_eps": 1e-05, "max_position_embeddings": 2048,
            "model_type": "gpt_neox", "num_attention_heads": 12, "num_hidden_layers": 12,
            "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": false,
            "use_parallel_residual": true, "vocab_size": 50304}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let hidden_size = config.size("hidden_size")?;
    let inner_size = config.size("intermediate_size")?;
    let vocab_size = config.size("vocab_size")?;
    let heads = Heads::even(config, "num_attention_heads", hidden_size)?;
    let epsilon = read::epsilon(config, "layer_norm_eps", 1e-5)?;
    let activation = read::activation(config, "hidden_act", Activation::Gelu)?;
    let bias = config.flag("attention_bias", true)?;
    let parallel = config.flag("use_parallel_residual", true)?;
    let defaults = RopeDefaults {
        theta: (10_000.0, "rotary_emb_base"),
        partial: Some((0.25, "rotary_pct")),
        ..RopeDefaults::default()
    };
    let rotary = rope::rotary(config, heads.width, &defaults)?;
    let positions = config
        .optional_size("max_position_embeddings")?
        .unwrap_or(2048);

    let norm = |path: String| Norm::new(path, hidden_size, NormKind::Layer, epsilon);
    let layers = (0..config.size_up_to("num_hidden_layers", MOST_LAYERS)?)
        .map(|index| {
            let path = format!("gpt_neox.layers.{index}");
            let at = |name: &str| format!("{path}.{name}");
            let linear = |name: &str, out, input, bias| Linear::new(at(name), out, input, bias);
            let projection = |name: &str, out| {
                linear(name, out, hidden_size, bias).with_bias_key("attention_bias")
            };
            let attention = norm(at("input_layernorm"));
            let mlp = norm(at("post_attention_layernorm"));
            Layer {
                attention: Some(Attention {
                    position: Position::Rotary(rotary.clone()),
                    ..Attention::new(
                        heads,
                        Projections::Fused {
                            qkv: projection("attention.query_key_value", 3 * hidden_size),
                            rows: FusedRows::Groups,
                        },
                        projection("attention.dense", hidden_size),
                    )
                }),
                recurrence: None,
                mlp: Mlp::Plain {
                    fc1: linear("mlp.dense_h_to_4h", inner_size, hidden_size, true),
                    fc2: linear("mlp.dense_4h_to_h", hidden_size, inner_size, true),
                    activation,
                },
                arrangement: match parallel {
                    true => Arrangement::parallel(attention, Some(mlp)),
                    false => Arrangement::before(attention, mlp),
                },
                residual_scale: None,
                path,
            }
        })
        .collect();
    let embedding = Embedding::new("gpt_neox.embed_in", vocab_size, hidden_size);
    let lm_head = read::head(config, false, &embedding, "lm_head", false)?;
    let (positions, positions_end) = rotary.most_positions(positions);
    Ok(DecoderSpec {
        positions_end,
        base_prefix: "gpt_neox.",
        other_names: &[("lm_head", "embed_out")],
        final_norm: Some(norm("gpt_neox.final_layer_norm".to_owned())),
        ..DecoderSpec::plain(config, positions, embedding, layers, lm_head)?
    })
}
