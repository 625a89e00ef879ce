//! GPT-J (`model_type: "gptj"`).
//!
//! - Attention and MLP in parallel after one norm, a LayerNorm.
//! - The first `rotary_dim` elements of a head are rotated, in pairs of neighbours.
//! - `fc_out(act(fc_in(x)))`; biases on the MLP and the head, none on attention.
//!
//! Source: `modeling_gptj.py`, Hugging Face Transformers.

use super::{DefaultTargets, Family, Shape};
use crate::arch::heads::Heads;
use crate::arch::rope::Pairs;
use crate::arch::{
    Activation, Arrangement, Attention, Declared, DecoderSpec, Embedding, Layer, Linear,
    MOST_LAYERS, Mlp, Norm, NormKind, Position, Projections, RotarySpec, read,
};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "gptj",
    name: "GPT-J",
    special: "parallel residual, partial and interleaved rotary positions",
    refused: "",
    targets: DefaultTargets {
        adalora: &["q_proj", "v_proj"],
        beft: &["v_proj"],
        ia3: &["q_proj", "v_proj", "fc_out"],
        ia3_feedforward: &["fc_out"],
        ln_tuning: &["ln_1", "ln_f"],
        osf: &["q_proj", "k_proj", "v_proj", "out_proj", "fc_in", "fc_out"],
        ..DefaultTargets::alike(&["q_proj", "v_proj"])
    },
    nested_defaults: None,
    shapes: &[Shape {
        name: "gpt-j-6b",
        copies: Some("EleutherAI/gpt-j-6b"),
        parameters: 6_050_882_784,
        config: r#"{"activation_function": "gelu_new", "architectures": ["GPTJForCausalLM"],
            "layer_norm_epsilon": 1e-05, "model_type": "gptj", "n_embd": 4096, "n_head": 16,
            "n_layer": 28, "n_positions": 2048, "rotary_dim": 64, "tie_word_embeddings": false,
            "vocab_size": 50400}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
pub fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let hidden_size = config.size("n_embd")?;
    let inner_size = config.optional_size("n_inner")?.unwrap_or(4 * hidden_size);
    let vocab_size = config.size("vocab_size")?;
    let positions = config.optional_size("n_positions")?.unwrap_or(2048);
    let heads = Heads::even(config, "n_head", hidden_size)?;
    let epsilon = read::epsilon(config, "layer_norm_epsilon", 1e-5)?;
    let activation = read::activation(config, "activation_function", Activation::GeluTanh)?;
    let rotary_dim = match config.json().get("rotary_dim") {
        None => 64,
        Some(_) => config.size("rotary_dim")?,
    };
    if rotary_dim % 2 != 0 || rotary_dim > heads.width {
        let expected = format!("an even number of at most a head's width ({})", heads.width);
        return Err(config.wrong("rotary_dim", &expected));
    }
    let rotary = RotarySpec::plain(10_000.0, rotary_dim, Pairs::Neighbours);

    let norm = |path: String| Norm::new(path, hidden_size, NormKind::Layer, epsilon);
    let layers = (0..config.size_up_to("n_layer", MOST_LAYERS)?)
        .map(|index| {
            let path = format!("transformer.h.{index}");
            let at = |name: &str| format!("{path}.{name}");
            let square = |name: &str| Linear::new(at(name), hidden_size, hidden_size, false);
            Layer {
                attention: Some(Attention {
                    declared: Declared::KeyFirst,
                    position: Position::Rotary(rotary.clone()),
                    ..Attention::new(
                        heads,
                        Projections::Separate {
                            query: square("attn.q_proj"),
                            key: square("attn.k_proj"),
                            value: square("attn.v_proj"),
                        },
                        square("attn.out_proj"),
                    )
                }),
                recurrence: None,
                mlp: Mlp::Plain {
                    fc1: Linear::new(at("mlp.fc_in"), inner_size, hidden_size, true),
                    fc2: Linear::new(at("mlp.fc_out"), hidden_size, inner_size, true),
                    activation,
                },
                arrangement: Arrangement::parallel(norm(at("ln_1")), None),
                residual_scale: None,
                path,
            }
        })
        .collect();
    let embedding = Embedding::new("transformer.wte", vocab_size, hidden_size);
    let lm_head = read::head(config, false, &embedding, "lm_head", true)?;
    Ok(DecoderSpec {
        base_prefix: "transformer.",
        final_norm: Some(norm("transformer.ln_f".to_owned())),
        ..DecoderSpec::plain(config, positions, embedding, layers, lm_head)?
    })
}
