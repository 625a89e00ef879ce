//! Llama (`model_type: "llama"`): the plain form that other families are told apart from.
//!
//! - `h = x + o_proj(attention(norm(x)))`, `y = h + mlp(norm(h))`, RMSNorm, rotary positions.
//! - Grouped-query attention; a gated perceptron.
//! - Biases on all four attention projections with `attention_bias`, on all three of the perceptron
//!   with `mlp_bias`.
//!
//! Source: `modeling_llama.py`, Hugging Face Transformers.

use super::{
    Activation, Attention, Declared, DecoderSpec, Embedding, Layer, Linear, MOST_LAYERS, Mlp, Norm,
    NormKind, NormPlacement, Positions, rope,
};
use crate::json_object::{ConfigError, JsonObject};

/// No model has wider heads; the frequencies are made before the weights are looked at.
const WIDEST_HEAD: usize = 1 << 16;

/// Reads the architecture from `config.json`.
pub fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let hidden_size = config.size("hidden_size")?;
    let intermediate_size = config.size("intermediate_size")?;
    let vocab_size = config.size("vocab_size")?;
    let heads = config.size("num_attention_heads")?;
    let key_value_heads = config
        .optional_size("num_key_value_heads")?
        .unwrap_or(heads);
    if heads % key_value_heads != 0 {
        return Err(config.wrong(
            "num_key_value_heads",
            &format!("a divisor of `num_attention_heads` ({heads})"),
        ));
    }
    let head_dim = match config.optional_size("head_dim")? {
        Some(head_dim) => head_dim,
        None if hidden_size % heads == 0 => hidden_size / heads,
        None => {
            return Err(config.wrong(
                "num_attention_heads",
                &format!("a divisor of `hidden_size` ({hidden_size})"),
            ));
        }
    };
    if head_dim % 2 != 0 || head_dim > WIDEST_HEAD {
        let expected = format!("an even number, for rotary positions (at most {WIDEST_HEAD})");
        return Err(config.wrong("head_dim", &expected));
    }
    let epsilon = config.optional_number("rms_norm_eps")?.unwrap_or(1e-6);
    if epsilon < 0.0 {
        return Err(config.wrong("rms_norm_eps", "a number of at least 0"));
    }
    let attention_bias = config.flag("attention_bias", false)?;
    let mlp_bias = config.flag("mlp_bias", false)?;
    let tied = config.flag("tie_word_embeddings", false)?;
    let activation = match config.optional_text("hidden_act")? {
        None => Activation::Silu,
        Some(name) => Activation::from_name(name)
            .ok_or_else(|| config.wrong("hidden_act", Activation::NAMES))?,
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
        kind: NormKind::Rms,
        epsilon,
    };
    let layers = (0..config.size_up_to("num_hidden_layers", MOST_LAYERS)?)
        .map(|index| {
            let path = format!("model.layers.{index}");
            let attention = |name: &str, out, input| {
                linear(
                    format!("{path}.self_attn.{name}"),
                    out,
                    input,
                    attention_bias,
                )
            };
            let mlp =
                |name: &str, out, input| linear(format!("{path}.mlp.{name}"), out, input, mlp_bias);
            Layer {
                attention: Attention {
                    q_proj: attention("q_proj", heads * head_dim, hidden_size),
                    k_proj: attention("k_proj", key_value_heads * head_dim, hidden_size),
                    v_proj: attention("v_proj", key_value_heads * head_dim, hidden_size),
                    o_proj: attention("o_proj", hidden_size, heads * head_dim),
                    declared: Declared::QueryFirst,
                    num_attention_heads: heads,
                    num_key_value_heads: key_value_heads,
                    head_dim,
                    scale: 1.0 / (head_dim as f64).sqrt(),
                },
                attention_norm: norm(format!("{path}.input_layernorm")),
                mlp: Mlp::Gated {
                    gate_proj: mlp("gate_proj", intermediate_size, hidden_size),
                    up_proj: mlp("up_proj", intermediate_size, hidden_size),
                    down_proj: mlp("down_proj", hidden_size, intermediate_size),
                    activation,
                },
                mlp_norm: norm(format!("{path}.post_attention_layernorm")),
                path,
            }
        })
        .collect();

    Ok(DecoderSpec {
        model_type: "llama".to_owned(),
        hidden_size,
        vocab_size,
        max_position_embeddings: config
            .optional_size("max_position_embeddings")?
            .unwrap_or(2048),
        base_prefix: "model.",
        embed_tokens: Embedding {
            path: "model.embed_tokens".to_owned(),
            source: "model.embed_tokens".to_owned(),
            num_embeddings: vocab_size,
            embedding_dim: hidden_size,
        },
        positions: Positions::Rotary(rope::rotary(config, head_dim)?),
        project_in: None,
        layers,
        norm_placement: NormPlacement::BeforeSublayer,
        final_norm: Some(norm("model.norm".to_owned())),
        project_out: None,
        lm_head: Linear {
            path: "lm_head".to_owned(),
            source: if tied {
                "model.embed_tokens"
            } else {
                "lm_head"
            }
            .to_owned(),
            in_features: hidden_size,
            out_features: vocab_size,
            bias: false,
        },
    })
}
