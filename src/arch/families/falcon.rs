//! Falcon (`model_type: "falcon"`).
//!
//! - Queries, keys and values in one projection: grouped by key head with
//!   `new_decoder_architecture`; else, with `multi_query`, all queries, one key, one value; else
//!   grouped by head.
//! - With `parallel_attn`, attention and MLP in parallel after one LayerNorm, or two with
//!   `num_ln_in_parallel_attn` 2; else one after the other.
//! - Rotary positions, or ALiBi with `alibi`: a bias that's always rounded to bfloat16, and divided
//!   by the square root of a head's width. Transformers adds it once in fused attention (SDPA, the
//!   default) and twice in eager attention; here it's added once.
//! - Biases on all linear layers with `bias`.
//!
//! Source: `modeling_falcon.py`, Hugging Face Transformers.

use super::{DefaultTargets, Family, Shape};
use crate::arch::heads::Heads;
use crate::arch::rope::{self, RopeDefaults};
use crate::arch::{
    Activation, Alibi, Arrangement, Attention, DecoderSpec, Embedding, FusedRows, Layer, Linear,
    MOST_LAYERS, Mlp, Norm, NormKind, Position, Projections, alibi, read,
};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "falcon",
    name: "Falcon",
    special: "one key head, or fused projection by groups; parallel residual; ALiBi",
    refused: "PREFIX_TUNING and CARTRIDGE with grouped keys",
    targets: DefaultTargets {
        ia3: &["query_key_value", "dense_4h_to_h"],
        ia3_feedforward: &["dense_4h_to_h"],
        ln_tuning: &["input_layernorm", "post_attention_layernorm", "ln_f"],
        osf: &["query_key_value", "dense_4h_to_h"],
        ..DefaultTargets::alike(&["query_key_value"])
    },
    nested_defaults: None,
    shapes: &[
        Shape {
            name: "falcon-7b",
            copies: Some("tiiuae/falcon-7b"),
            parameters: 6_921_720_704,
            config: r#"{"alibi": false, "architectures": ["FalconForCausalLM"], "bias": false,
            "hidden_size": 4544, "layer_norm_epsilon": 1e-05, "model_type": "falcon",
            "multi_query": true, "new_decoder_architecture": false, "num_attention_heads": 71,
            "num_hidden_layers": 32, "parallel_attn": true, "vocab_size": 65024}"#,
        },
        Shape {
            name: "falcon-rw-1b",
            copies: Some("tiiuae/falcon-rw-1b"),
            parameters: 1_311_625_216,
            config: r#"{"alibi": true, "architectures": ["FalconForCausalLM"], "bias": true,
                "hidden_size": 2048, "layer_norm_epsilon": 1e-05, "model_type": "falcon",
                "multi_query": false, "new_decoder_architecture": false, "num_attention_heads": 32,
                "num_hidden_layers": 24, "parallel_attn": false, "vocab_size": 50304}"#,
        },
    ],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let hidden_size = config.size(read::either(config, ["hidden_size", "n_embed"]))?;
    let inner_size = config
        .optional_size("ffn_hidden_size")?
        .unwrap_or(4 * hidden_size);
    let vocab_size = config.size("vocab_size")?;
    let epsilon = read::epsilon(config, "layer_norm_epsilon", 1e-5)?;
    let activation = read::activation(config, "activation", Activation::Gelu)?;
    let bias = config.flag("bias", false)?;
    let new = config.flag("new_decoder_architecture", false)?;
    let parallel = config.flag("parallel_attn", true)?;
    if new && !parallel {
        let reason = "`new_decoder_architecture` needs it to be true";
        return Err(config.refused("parallel_attn", reason));
    }
    let norms = match config.optional_size("num_ln_in_parallel_attn")? {
        None if new => 2,
        Some(2) if new => 2,
        None | Some(1) => 1,
        Some(_) => {
            let expected = "1, or 2 with `new_decoder_architecture`";
            return Err(config.wrong("num_ln_in_parallel_attn", expected));
        }
    };

    let all = Heads::even(config, "num_attention_heads", hidden_size)?;
    let multi_query = config.flag("multi_query", true)?;
    let keys = match (new, multi_query) {
        (false, true) => 1,
        _ => config.optional_size("num_kv_heads")?.unwrap_or(all.queries),
    };
    let heads = Heads { keys, ..all };
    let fits = match (new, multi_query) {
        (true, _) => heads.queries.is_multiple_of(keys),
        (false, true) => true,
        (false, false) => keys == heads.queries,
    };
    if !fits {
        let expected = format!(
            "`num_attention_heads` ({}), or with `new_decoder_architecture` a divisor of it",
            heads.queries
        );
        return Err(config.wrong("num_kv_heads", &expected));
    }
    let rows = match (new, multi_query) {
        (false, true) => FusedRows::Kinds,
        _ => FusedRows::Groups,
    };
    let positions = config
        .optional_size("max_position_embeddings")?
        .unwrap_or(2048);
    let (position, (positions, positions_end)) = match config.flag("alibi", false)? {
        true => {
            let alibi = Alibi {
                slopes: alibi::bloom(heads.queries),
                rounded_times: Some(heads.scale() as f32),
            };
            (Position::Alibi(alibi), (positions, None))
        }
        false => {
            let rotary = rope::rotary(config, heads.width, &RopeDefaults::default())?;
            let most = rotary.most_positions(positions);
            (Position::Rotary(rotary), most)
        }
    };

    let norm = |path: String| Norm::new(path, hidden_size, NormKind::Layer, epsilon);
    let layers = (0..config.size_up_to("num_hidden_layers", MOST_LAYERS)?)
        .map(|index| {
            let path = format!("transformer.h.{index}");
            let at = |name: &str| format!("{path}.{name}");
            let linear = |name: &str, out, input| {
                Linear::new(at(name), out, input, bias).with_bias_key("bias")
            };
            let qkv = (heads.queries + 2 * heads.keys) * heads.width;
            Layer {
                attention: Some(Attention {
                    position: position.clone(),
                    ..Attention::new(
                        heads,
                        Projections::Fused {
                            qkv: linear("self_attention.query_key_value", qkv, hidden_size),
                            rows,
                        },
                        linear("self_attention.dense", hidden_size, hidden_size),
                    )
                }),
                recurrence: None,
                mlp: Mlp::Plain {
                    fc1: linear("mlp.dense_h_to_4h", inner_size, hidden_size),
                    fc2: linear("mlp.dense_4h_to_h", hidden_size, inner_size),
                    activation,
                },
                arrangement: match (parallel, norms) {
                    (true, 2) => {
                        Arrangement::parallel(norm(at("ln_attn")), Some(norm(at("ln_mlp"))))
                    }
                    (true, _) => Arrangement::parallel(norm(at("input_layernorm")), None),
                    (false, _) => Arrangement::before(
                        norm(at("input_layernorm")),
                        norm(at("post_attention_layernorm")),
                    ),
                },
                residual_scale: None,
                path,
            }
        })
        .collect();
    let embedding = Embedding::new("transformer.word_embeddings", vocab_size, hidden_size);
    let lm_head = read::head(config, true, &embedding, "lm_head", false)?;
    Ok(DecoderSpec {
        positions_end,
        base_prefix: "transformer.",
        final_norm: Some(norm("transformer.ln_f".to_owned())),
        ..DecoderSpec::plain(config, positions, embedding, layers, lm_head)?
    })
}
