//! OPT (`model_type: "opt"`).
//!
//! - Learned positions; the table's first two rows belong to no position.
//! - Biases everywhere with `enable_bias`; LayerNorm, without parameters where
//!   `layer_norm_elementwise_affine` is false.
//! - `do_layer_norm_before`: the norms stand before their sublayers and there's a final norm (unless
//!   `_remove_final_layer_norm`); else behind the residual and there's none (opt-350m).
//! - `word_embed_proj_dim` other than `hidden_size`: projections behind the embedding and before the
//!   head, without biases.
//!
//! Source: `modeling_opt.py`, Hugging Face Transformers.

use super::{
    Activation, Attention, Declared, DecoderSpec, Embedding, Layer, Linear, MOST_LAYERS, Mlp, Norm,
    NormKind, NormPlacement, Positions,
};
use crate::json_object::{ConfigError, JsonObject};

/// Rows of the position table before position 0.
const POSITION_OFFSET: usize = 2;

/// Reads the architecture from `config.json`.
pub fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let hidden_size = config.size("hidden_size")?;
    let ffn_dim = config.size("ffn_dim")?;
    let vocab_size = config.size("vocab_size")?;
    let max_position_embeddings = config.size("max_position_embeddings")?;
    let heads = config.size("num_attention_heads")?;
    if hidden_size % heads != 0 {
        return Err(config.wrong(
            "num_attention_heads",
            &format!("a divisor of `hidden_size` ({hidden_size})"),
        ));
    }
    let head_dim = hidden_size / heads;
    let embedding_dim = config
        .optional_size("word_embed_proj_dim")?
        .unwrap_or(hidden_size);
    let bias = config.flag("enable_bias", true)?;
    let before = config.flag("do_layer_norm_before", true)?;
    let final_norm = before && !config.flag("_remove_final_layer_norm", false)?;
    let kind = if config.flag("layer_norm_elementwise_affine", true)? {
        NormKind::Layer
    } else {
        NormKind::LayerWithoutParameters
    };
    let tied = config.flag("tie_word_embeddings", true)?;
    let activation = match config.optional_text("activation_function")? {
        None => Activation::Relu,
        Some(name) => Activation::from_name(name)
            .ok_or_else(|| config.wrong("activation_function", Activation::NAMES))?,
    };

    let linear = |path: String, out_features: usize, in_features: usize, bias: bool| Linear {
        source: path.clone(),
        path,
        in_features,
        out_features,
        bias,
    };
    let norm = |path: String| Norm {
        source: path.clone(),
        path,
        size: hidden_size,
        kind,
        epsilon: 1e-5,
    };
    let table = |name: &str, num_embeddings: usize, embedding_dim: usize| Embedding {
        path: format!("model.decoder.{name}"),
        source: format!("model.decoder.{name}"),
        num_embeddings,
        embedding_dim,
    };
    let layers = (0..config.size_up_to("num_hidden_layers", MOST_LAYERS)?)
        .map(|index| {
            let path = format!("model.decoder.layers.{index}");
            let attention = |name: &str| {
                linear(
                    format!("{path}.self_attn.{name}"),
                    hidden_size,
                    hidden_size,
                    bias,
                )
            };
            Layer {
                attention: Attention {
                    q_proj: attention("q_proj"),
                    k_proj: attention("k_proj"),
                    v_proj: attention("v_proj"),
                    o_proj: attention("out_proj"),
                    declared: Declared::KeyFirst,
                    num_attention_heads: heads,
                    num_key_value_heads: heads,
                    head_dim,
                    scale: 1.0 / (head_dim as f64).sqrt(),
                },
                attention_norm: norm(format!("{path}.self_attn_layer_norm")),
                mlp: Mlp::Plain {
                    fc1: linear(format!("{path}.fc1"), ffn_dim, hidden_size, bias),
                    fc2: linear(format!("{path}.fc2"), hidden_size, ffn_dim, bias),
                    activation,
                },
                mlp_norm: norm(format!("{path}.final_layer_norm")),
                path,
            }
        })
        .collect();
    let projected = embedding_dim != hidden_size;

    Ok(DecoderSpec {
        model_type: "opt".to_owned(),
        hidden_size,
        vocab_size,
        max_position_embeddings,
        base_prefix: "model.",
        embed_tokens: table("embed_tokens", vocab_size, embedding_dim),
        positions: Positions::Learned {
            table: table(
                "embed_positions",
                max_position_embeddings + POSITION_OFFSET,
                hidden_size,
            ),
            offset: POSITION_OFFSET,
        },
        project_in: projected.then(|| {
            linear(
                "model.decoder.project_in".to_owned(),
                hidden_size,
                embedding_dim,
                false,
            )
        }),
        layers,
        norm_placement: if before {
            NormPlacement::BeforeSublayer
        } else {
            NormPlacement::AfterResidual
        },
        final_norm: final_norm.then(|| norm("model.decoder.final_layer_norm".to_owned())),
        project_out: projected.then(|| {
            linear(
                "model.decoder.project_out".to_owned(),
                embedding_dim,
                hidden_size,
                false,
            )
        }),
        lm_head: Linear {
            path: "lm_head".to_owned(),
            source: if tied {
                "model.decoder.embed_tokens"
            } else {
                "lm_head"
            }
            .to_owned(),
            in_features: embedding_dim,
            out_features: vocab_size,
            bias: false,
        },
    })
}
