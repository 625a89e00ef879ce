//! OPT (`model_type: "opt"`).
//!
//! - Learned positions; the table's first two rows are unused.
//! - Biases everywhere with `enable_bias`; LayerNorm, without parameters if
//!   `layer_norm_elementwise_affine` is false.
//! - `do_layer_norm_before`: norms before the sublayers and a final norm (unless
//!   `_remove_final_layer_norm`); else norms after the residual and no final norm (opt-350m).
//! - `word_embed_proj_dim` other than `hidden_size`: projections after the embedding and before the
//!   head, without biases.
//!
//! Source: `modeling_opt.py`, Hugging Face Transformers.

use super::{DefaultTargets, Family, Shape};
use crate::arch::heads::Heads;
use crate::arch::{
    Activation, Arrangement, Attention, Declared, DecoderSpec, Embedding, Layer, LearnedPositions,
    Linear, MOST_LAYERS, Mlp, Norm, NormKind, Projections, read,
};
use crate::json::{ConfigError, JsonObject};

/// Rows of the position table before position 0.
const POSITION_OFFSET: usize = 2;

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "opt",
    name: "OPT",
    special: "learned positions, LayerNorm before or after the residual, projected embeddings",
    refused: "",
    targets: DefaultTargets {
        adalora: &["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
        beft: &["v_proj"],
        ia3: &["q_proj", "k_proj", "fc2"],
        ia3_feedforward: &["fc2"],
        osf: &["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
        ..DefaultTargets::alike(&["q_proj", "v_proj"])
    },
    nested_defaults: None,
    shapes: &[
        Shape {
            name: "opt-125m",
            copies: Some("facebook/opt-125m"),
            parameters: 125_239_296,
            config: r#"{"activation_function": "relu", "architectures": ["OPTForCausalLM"],
                "do_layer_norm_before": true, "ffn_dim": 3072, "hidden_size": 768,
                "max_position_embeddings": 2048, "model_type": "opt", "num_attention_heads": 12,
                "num_hidden_layers": 12, "vocab_size": 50272, "word_embed_proj_dim": 768}"#,
        },
        Shape {
            name: "opt-350m",
            copies: Some("facebook/opt-350m"),
            parameters: 331_196_416,
            config: r#"{"activation_function": "relu", "architectures": ["OPTForCausalLM"],
                "do_layer_norm_before": false, "ffn_dim": 4096, "hidden_size": 1024,
                "max_position_embeddings": 2048, "model_type": "opt", "num_attention_heads": 16,
                "num_hidden_layers": 24, "vocab_size": 50272, "word_embed_proj_dim": 512}"#,
        },
    ],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let hidden_size = config.size("hidden_size")?;
    let ffn_dim = config.size("ffn_dim")?;
    let vocab_size = config.size("vocab_size")?;
    let max_position_embeddings = config.size("max_position_embeddings")?;
    let heads = Heads::even(config, "num_attention_heads", hidden_size)?;
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
    let activation = read::activation(config, "activation_function", Activation::Relu)?;

    let linear =
        |path, out, input| Linear::new(path, out, input, bias).with_bias_key("enable_bias");
    let norm = |path: String| Norm::new(path, hidden_size, kind, 1e-5);
    let layers = (0..config.size_up_to("num_hidden_layers", MOST_LAYERS)?)
        .map(|index| {
            let path = format!("model.decoder.layers.{index}");
            let at = |name: &str| format!("{path}.{name}");
            let square = |name: &str| linear(at(name), hidden_size, hidden_size);
            let attention = norm(at("self_attn_layer_norm"));
            let mlp = norm(at("final_layer_norm"));
            Layer {
                attention: Some(Attention {
                    declared: Declared::KeyFirst,
                    ..Attention::new(
                        heads,
                        Projections::Separate {
                            query: square("self_attn.q_proj"),
                            key: square("self_attn.k_proj"),
                            value: square("self_attn.v_proj"),
                        },
                        square("self_attn.out_proj"),
                    )
                }),
                recurrence: None,
                mlp: Mlp::Plain {
                    fc1: linear(at("fc1"), ffn_dim, hidden_size),
                    fc2: linear(at("fc2"), hidden_size, ffn_dim),
                    activation,
                },
                arrangement: if before {
                    Arrangement::before(attention, mlp)
                } else {
                    Arrangement::after_residual(attention, mlp)
                },
                residual_scale: None,
                path,
            }
        })
        .collect();
    let projection = |name: &str, out, input| {
        let path = format!("model.decoder.{name}");
        (embedding_dim != hidden_size).then(|| Linear::new(path, out, input, false))
    };

    let embed_tokens = Embedding::new("model.decoder.embed_tokens", vocab_size, embedding_dim);
    let lm_head = read::head(config, true, &embed_tokens, "lm_head", false)?;
    Ok(DecoderSpec {
        hidden_size,
        base_prefix: "model.",
        learned_positions: Some(LearnedPositions {
            table: Embedding::new(
                "model.decoder.embed_positions",
                max_position_embeddings + POSITION_OFFSET,
                hidden_size,
            ),
            offset: POSITION_OFFSET,
        }),
        project_in: projection("project_in", hidden_size, embedding_dim),
        final_norm: final_norm.then(|| norm("model.decoder.final_layer_norm".to_owned())),
        project_out: projection("project_out", embedding_dim, hidden_size),
        ..DecoderSpec::plain(
            config,
            max_position_embeddings,
            embed_tokens,
            layers,
            lm_head,
        )?
    })
}
