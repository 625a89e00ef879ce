//! MPT (`model_type: "mpt"`).
//!
//! - ALiBi instead of positions; LayerNorm without bias; no biases at all.
//! - Queries, keys and values in one projection, clamped to ± `clip_qkv`.
//! - MLP of `expansion_ratio` times the hidden size, GELU. Transformers ignores that key and makes it
//!   four times as wide; a checkpoint's tensors decide.
//!
//! Transformers ignores several options that MPT's own code had; values that would change the
//! result are refused.
//!
//! Source: `modeling_mpt.py`, Hugging Face Transformers.

use super::{DefaultTargets, Family, Shape};
use crate::arch::heads::Heads;
use crate::arch::{
    Activation, Alibi, Arrangement, Attention, DecoderSpec, Embedding, FusedRows, Layer, Linear,
    MOST_LAYERS, Mlp, Norm, NormKind, Position, Projections, alibi, read,
};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "mpt",
    name: "MPT",
    special: "ALiBi, no biases, fused projection, `clip_qkv`",
    refused: "options that Transformers' MPT ignores",
    targets: DefaultTargets::alike(&["Wqkv"]),
    nested_defaults: None,
    shapes: &[Shape {
        name: "mpt-7b",
        copies: Some("mosaicml/mpt-7b"),
        parameters: 6_649_286_656,
        config: r#"{"architectures": ["MptForCausalLM"], "attn_config": { "alibi": true,
            "alibi_bias_max": 8, "clip_qkv": null, "softmax_scale": null }, "d_model": 4096,
            "expansion_ratio": 4, "max_seq_len": 2048, "model_type": "mpt", "n_heads": 32,
            "n_layers": 32, "no_bias": true, "vocab_size": 50432}"#,
    }],
    read: spec,
};

/// The largest `expansion_ratio`.
const WIDEST: usize = 1 << 10;

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let hidden_size = config.size("d_model")?;
    let ratio = config.optional_size_up_to("expansion_ratio", WIDEST)?;
    let inner_size = ratio.unwrap_or(4) * hidden_size;
    let vocab_size = config.size("vocab_size")?;
    let heads = Heads::even(config, "n_heads", hidden_size)?;
    let epsilon = read::epsilon(config, "layer_norm_epsilon", 1e-5)?;
    let positions = config.optional_size("max_seq_len")?.unwrap_or(2048);
    refuse_others(config)?;
    let options = config.optional_object("attn_config")?;
    let number = |key| match &options {
        Some(options) => read::positive(options, key),
        None => Ok(None),
    };
    let clip = number("clip_qkv")?;
    let scale = number("softmax_scale")?.unwrap_or(heads.scale());
    let position = Position::Alibi(Alibi::exact(alibi::mpt(heads.queries)));

    let norm = |path: String| Norm::new(path, hidden_size, NormKind::LayerWithoutBias, epsilon);
    let layers = (0..config.size_up_to("n_layers", MOST_LAYERS)?)
        .map(|index| {
            let path = format!("transformer.blocks.{index}");
            let at = |name: &str| format!("{path}.{name}");
            let linear = |name: &str, out, input| Linear::new(at(name), out, input, false);
            Layer {
                attention: Some(Attention {
                    clip,
                    scale,
                    position: position.clone(),
                    ..Attention::new(
                        heads,
                        Projections::Fused {
                            qkv: linear("attn.Wqkv", 3 * hidden_size, hidden_size),
                            rows: FusedRows::Kinds,
                        },
                        linear("attn.out_proj", hidden_size, hidden_size),
                    )
                }),
                recurrence: None,
                mlp: Mlp::Plain {
                    fc1: linear("ffn.up_proj", inner_size, hidden_size),
                    fc2: linear("ffn.down_proj", hidden_size, inner_size),
                    activation: Activation::Gelu,
                },
                arrangement: Arrangement::before(norm(at("norm_1")), norm(at("norm_2"))),
                residual_scale: None,
                path,
            }
        })
        .collect();
    let embedding = Embedding::new("transformer.wte", vocab_size, hidden_size);
    let lm_head = read::head(config, true, &embedding, "lm_head", false)?;
    Ok(DecoderSpec {
        base_prefix: "transformer.",
        final_norm: Some(norm("transformer.norm_f".to_owned())),
        ..DecoderSpec::plain(config, positions, embedding, layers, lm_head)?
    })
}

/// Refuses options that Transformers' MPT doesn't implement.
fn refuse_others(config: &JsonObject) -> Result<(), ConfigError> {
    const REASON: &str = "Transformers' MPT doesn't have it";
    if !config.flag("no_bias", true)? {
        return Err(config.refused("no_bias", REASON));
    }
    if config.get("logit_scale").is_some() {
        return Err(config.refused("logit_scale", REASON));
    }
    if let Some(norm) = config.optional_text("norm_type")?
        && !norm.ends_with("layernorm")
    {
        return Err(config.wrong("norm_type", "a layernorm"));
    }
    let Some(options) = config.optional_object("attn_config")? else {
        return Ok(());
    };
    if !options.flag("alibi", true)? {
        return Err(options.refused("alibi", "Transformers' MPT always has it"));
    }
    for key in ["prefix_lm", "qk_ln"] {
        read::must_be_off(&options, key, REASON)?;
    }
    if options.optional_size("alibi_bias_max")?.unwrap_or(8) != 8 {
        return Err(options.wrong("alibi_bias_max", "8"));
    }
    match options.optional_text("attn_type")? {
        None | Some("multihead_attention") => Ok(()),
        Some(_) => Err(options.wrong("attn_type", "`multihead_attention`")),
    }
}
