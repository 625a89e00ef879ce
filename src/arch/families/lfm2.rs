//! LFM2 (`model_type: "lfm2"`): most layers have a short convolution instead of attention.
//!
//! - `layer_types` says `conv` or `full_attention` for each layer; older configurations list the
//!   layers with attention in `full_attn_idxs`, and by default all have it.
//! - RMSNorm of query and key heads; a gated MLP with the names `w1` (gate), `w3` (up) and `w2`.
//! - With `block_auto_adjust_ff_dim`, the MLP is two thirds of `intermediate_size` wide, times
//!   `block_ffn_dim_multiplier`, rounded up to a multiple of `block_multiple_of`.
//! - `conv_bias` gives a bias to the convolution and to both projections around it.
//!
//! Source: `modeling_lfm2.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::rope::RopeDefaults;
use crate::arch::{
    Convolution, DecoderSpec, Layer, Linear, Mlp, NormKind, NormOver, Recurrence, ShortConvolution,
    layer_kinds, read,
};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "lfm2",
    name: "LFM2",
    special: "short convolutions in most layers",
    refused: "",
    targets: DefaultTargets::NONE,
    nested_defaults: Some(DEFAULTS),
    shapes: &[
        Shape {
            name: "lfm2-350m",
            copies: Some("LiquidAI/LFM2-350M"),
            parameters: 354_483_968,
            config: r#"{"architectures": ["Lfm2ForCausalLM"], "block_auto_adjust_ff_dim": true, "block_dim": 1024,
                "block_ff_dim": 6656, "block_ffn_dim_multiplier": 1.0, "block_multiple_of": 256,
                "block_norm_eps": 1e-05, "block_use_swiglu": true, "conv_L_cache": 3, "conv_bias": false,
                "conv_dim": 1024, "full_attn_idxs": [2, 5, 8, 10, 12, 14], "hidden_size": 1024,
                "max_position_embeddings": 128000, "model_type": "lfm2", "norm_eps": 1e-05,
                "num_attention_heads": 16, "num_heads": 16, "num_hidden_layers": 16,
                "num_key_value_heads": 8, "rope_theta": 1000000.0, "vocab_size": 65536}"#,
        },
        Shape {
            name: "lfm2-1.2b",
            copies: Some("LiquidAI/LFM2-1.2B"),
            parameters: 1_170_340_608,
            config: r#"{"architectures": ["Lfm2ForCausalLM"], "block_auto_adjust_ff_dim": true, "block_dim": 2048,
                "block_ff_dim": 12288, "block_ffn_dim_multiplier": 1.0, "block_multiple_of": 256,
                "block_norm_eps": 1e-05, "block_use_swiglu": true, "conv_L_cache": 3, "conv_bias": false,
                "conv_dim": 2048, "full_attn_idxs": [2, 5, 8, 10, 12, 14], "hidden_size": 2048,
                "max_position_embeddings": 128000, "model_type": "lfm2", "norm_eps": 1e-05,
                "num_attention_heads": 32, "num_heads": 32, "num_hidden_layers": 16,
                "num_key_value_heads": 8, "rope_theta": 1000000.0, "vocab_size": 65536}"#,
        },
    ],
    read: spec,
};

/// Transformers' defaults of the sizes.
const DEFAULTS: &str = r#"{"vocab_size": 65536, "hidden_size": 2560, "intermediate_size": 12288,
    "num_hidden_layers": 32, "num_attention_heads": 32}"#;

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    decoder(config, DEFAULTS)
}

/// Reads a decoder of the family, with these defaults of its sizes.
pub fn decoder(config: &JsonObject, defaults: &str) -> Result<DecoderSpec, ConfigError> {
    let config = &with_own_keys(&read::with_defaults(config.clone(), defaults))?;
    let differences = Differences {
        epsilon: ("norm_eps", 1e-5),
        qkv_bias: Bias::Never,
        output_bias: Bias::Never,
        mlp_bias: Bias::Never,
        activation: ("", crate::arch::Activation::Silu),
        tied: true,
        key_value_heads: Some(8),
        positions: 128_000,
        rope: RopeDefaults {
            theta: (1_000_000.0, "rope_theta"),
            ..RopeDefaults::default()
        },
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    spec.norm_queries_and_keys(
        ["q_layernorm", "k_layernorm"],
        NormOver::Head,
        NormKind::Rms,
    );
    spec.rearrange(|norm| {
        crate::arch::Arrangement::before(norm("operator_norm"), norm("ffn_norm"))
    });
    let attends = attending_layers(config, spec.layers.len())?;
    for (layer, attends) in spec.layers.iter_mut().zip(attends) {
        rename_mlp(layer);
        match (attends, &mut layer.attention) {
            (true, Some(attention)) => attention.o_proj.rename(&layer.path, "self_attn.out_proj"),
            _ => {
                layer.attention = None;
                layer.recurrence = Some(short_convolution(config, &layer.path, spec.hidden_size)?);
            }
        }
    }
    if let Some(norm) = &mut spec.final_norm {
        norm.rename("model", "embedding_norm");
    }
    Ok(spec)
}

/// `config` with Transformers' names for two keys, and with the MLP's width.
fn with_own_keys(config: &JsonObject) -> Result<JsonObject, ConfigError> {
    let mut config = config.clone();
    if let Some(tied) = config.get("tie_embedding").cloned() {
        config = config.with("tie_word_embeddings", tied);
    }
    let size = read::either(&config, ["block_ff_dim", "intermediate_size"]);
    let width = config.size(size)?;
    if !config.flag("block_auto_adjust_ff_dim", true)? {
        return Ok(config.with("intermediate_size", width.into()));
    }
    let adjusted = 2 * width / 3;
    let multiple = config.optional_size("block_multiple_of")?.unwrap_or(256);
    let key = "block_ffn_dim_multiplier";
    // Without a multiplier Transformers doesn't round up, either.
    let width = match (config.json().get(key), read::positive(&config, key)?) {
        (Some(_), None) => adjusted,
        (_, factor) => {
            let times = factor.unwrap_or(1.0) * adjusted as f64;
            (times as usize).next_multiple_of(multiple)
        }
    };
    Ok(config.with("intermediate_size", width.into()))
}

/// For each layer, whether it has attention.
fn attending_layers(config: &JsonObject, layers: usize) -> Result<Vec<bool>, ConfigError> {
    const KINDS: &[(&str, bool)] = &[("full_attention", true), ("conv", false)];
    if let Some(attends) = layer_kinds::read(config, "layer_types", layers, KINDS)? {
        return Ok(attends);
    }
    let key = "full_attn_idxs";
    let Some(value) = config.get(key) else {
        return Ok(vec![true; layers]);
    };
    let indices: Option<Vec<usize>> = serde_json::from_value(value.clone()).ok();
    let indices = indices.ok_or_else(|| config.wrong(key, "a list of layers' numbers"))?;
    Ok((0..layers).map(|layer| indices.contains(&layer)).collect())
}

fn short_convolution(
    config: &JsonObject,
    layer: &str,
    width: usize,
) -> Result<Recurrence, ConfigError> {
    const KEY: &str = "conv_bias";
    let bias = config.flag(KEY, false)?;
    let kernel = layer_kinds::kernel(config, "conv_L_cache", 3)?;
    let linear = |name: &str, rows: usize| {
        Linear::new(format!("{layer}.conv.{name}"), rows, width, bias).with_bias_key(KEY)
    };
    Ok(Recurrence::ShortConvolution(Box::new(ShortConvolution {
        in_proj: linear("in_proj", 3 * width),
        convolution: Convolution::new(format!("{layer}.conv.conv"), width, kernel, bias),
        out_proj: linear("out_proj", width),
    })))
}

fn rename_mlp(layer: &mut Layer) {
    if let Mlp::Gated {
        gate_proj,
        up_proj,
        down_proj,
        ..
    } = &mut layer.mlp
    {
        let names = [(gate_proj, "w1"), (up_proj, "w3"), (down_proj, "w2")];
        for (linear, name) in names {
            linear.rename(&layer.path, &format!("feed_forward.{name}"));
        }
    }
}
