//! GPT-2 (`model_type: "gpt2"`).
//!
//! - Learned positions; LayerNorm before each sublayer; `c_proj(act(c_fc(x)))`; biases everywhere.
//! - Queries, keys and values in one projection, `c_attn`.
//! - Weights are stored as `[in_features, out_features]`, except for the embedding.
//! - `scale_attn_by_inverse_layer_idx`: layer `i` also divides scores by `i + 1`.
//!
//! Source: `modeling_gpt2.py`, Hugging Face Transformers.

use super::{DefaultTargets, Family, Shape};
use crate::arch::heads::Heads;
use crate::arch::{
    Activation, Arrangement, Attention, DecoderSpec, Embedding, FusedRows, Layer, LearnedPositions,
    Linear, MOST_LAYERS, Mlp, Norm, NormKind, Projections, Stored, read,
};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "gpt2",
    name: "GPT-2",
    special: "weights as `[in, out]`, fused projection, learned positions",
    refused: "`add_cross_attention`",
    targets: DefaultTargets {
        spectral: &["mlp.c_proj"],
        adalora: &["c_attn"],
        ia3: &["c_attn", "mlp.c_proj"],
        ia3_feedforward: &["mlp.c_proj"],
        ln_tuning: &["ln_1", "ln_2", "ln_f"],
        osf: &["c_attn", "c_proj"],
        ..DefaultTargets::alike(&["c_attn"])
    },
    nested_defaults: None,
    shapes: &[Shape {
        name: "gpt2",
        copies: Some("openai-community/gpt2"),
        parameters: 124_439_808,
        config: r#"{"activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"],
            "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_embd": 768, "n_head": 12,
            "n_layer": 12, "n_positions": 1024, "vocab_size": 50257}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
pub fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let reason = "cross-attention has nothing to attend to";
    read::must_be_off(config, "add_cross_attention", reason)?;
    let hidden_size = config.size("n_embd")?;
    let inner_size = config.optional_size("n_inner")?.unwrap_or(4 * hidden_size);
    let positions = config.optional_size("n_positions")?.unwrap_or(1024);
    let heads = Heads::even(config, "n_head", hidden_size)?;
    let epsilon = read::epsilon(config, "layer_norm_epsilon", 1e-5)?;
    let activation = read::activation(config, "activation_function", Activation::GeluTanh)?;
    let scale = match config.flag("scale_attn_weights", true)? {
        true => heads.scale(),
        false => 1.0,
    };
    let by_layer = config.flag("scale_attn_by_inverse_layer_idx", false)?;

    let linear = |path, out, input| Linear {
        stored: Stored::InOut,
        ..Linear::new(path, out, input, true)
    };
    let norm = |path: String| Norm::new(path, hidden_size, NormKind::Layer, epsilon);
    let layers = (0..config.size_up_to("n_layer", MOST_LAYERS)?)
        .map(|index| {
            let path = format!("transformer.h.{index}");
            let at = |name: &str| format!("{path}.{name}");
            let divisor = if by_layer { (index + 1) as f64 } else { 1.0 };
            Layer {
                attention: Some(Attention {
                    scale: scale / divisor,
                    ..Attention::new(
                        heads,
                        Projections::Fused {
                            qkv: linear(at("attn.c_attn"), 3 * hidden_size, hidden_size),
                            rows: FusedRows::Kinds,
                        },
                        linear(at("attn.c_proj"), hidden_size, hidden_size),
                    )
                }),
                recurrence: None,
                mlp: Mlp::Plain {
                    fc1: linear(at("mlp.c_fc"), inner_size, hidden_size),
                    fc2: linear(at("mlp.c_proj"), hidden_size, inner_size),
                    activation,
                },
                arrangement: Arrangement::before(norm(at("ln_1")), norm(at("ln_2"))),
                residual_scale: None,
                path,
            }
        })
        .collect();
    around(
        config,
        positions,
        layers,
        norm("transformer.ln_f".to_owned()),
    )
}

/// The decoder of `layers`, between GPT-2's embeddings of `vocab_size` tokens and of `positions`, and
/// its last norm and head.
pub(super) fn around(
    config: &JsonObject,
    positions: usize,
    layers: Vec<Layer>,
    final_norm: Norm,
) -> Result<DecoderSpec, ConfigError> {
    let hidden_size = final_norm.size;
    let vocab_size = config.size("vocab_size")?;
    let embedding = Embedding::new("transformer.wte", vocab_size, hidden_size);
    let lm_head = read::head(config, true, &embedding, "lm_head", false)?;
    Ok(DecoderSpec {
        base_prefix: "transformer.",
        learned_positions: Some(LearnedPositions {
            table: Embedding::new("transformer.wpe", positions, hidden_size),
            offset: 0,
        }),
        final_norm: Some(final_norm),
        ..DecoderSpec::plain(config, positions, embedding, layers, lm_head)?
    })
}
