//! Qwen3.5 (`model_type: "qwen3_5_text"`): most layers have a gated delta net instead of attention.
//!
//! - `layer_types` says `linear_attention` or `full_attention` for each layer; by default every
//!   `full_attention_interval`-th has attention.
//! - Attention's outputs are multiplied by the sigmoid of a gate, whose rows follow those of the
//!   query in each head of `q_proj`. Norms of query and key heads; a quarter of each head is
//!   rotated.
//! - Norms multiply by `1 + weight`, except for the delta net's own.
//!
//! Source: `modeling_qwen3_5.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::rope::RopeDefaults;
use crate::arch::{
    Convolution, DecoderSpec, DeltaProjections, GatedDelta, Linear, Norm, NormKind, NormOver,
    PlainParameter, Projections, Recurrence, layer_kinds, read,
};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "qwen3_5_text",
    name: "Qwen3.5",
    special: "gated delta nets in most layers, gated attention in the others",
    refused: "",
    targets: DefaultTargets::NONE,
    nested_defaults: Some(DEFAULTS),
    shapes: &[
        // Copies no model: the layers of Qwen3.5 with the width of a small one.
        Shape {
            name: "qwen3.5-357m",
            copies: None,
            parameters: 357_348_384,
            config: r#"{"architectures": ["Qwen3_5ForCausalLM"], "attention_bias": false, "head_dim": 128,
                "hidden_act": "silu", "hidden_size": 1024, "intermediate_size": 2816,
                "layer_types": null, "full_attention_interval": 4, "linear_conv_kernel_dim": 4,
                "linear_key_head_dim": 128, "linear_num_key_heads": 8, "linear_num_value_heads": 8,
                "linear_value_head_dim": 128, "max_position_embeddings": 32768,
                "model_type": "qwen3_5_text", "num_attention_heads": 8, "num_hidden_layers": 24,
                "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_parameters":
                { "rope_type": "default", "rope_theta": 10000000, "partial_rotary_factor": 0.25 },
                "tie_word_embeddings": true, "vocab_size": 32000}"#,
        },
        Shape {
            name: "qwen3.5-9b",
            copies: Some("Qwen/Qwen3.5-9B"),
            parameters: 8_953_803_264,
            config: r#"{"architectures": ["Qwen3_5ForCausalLM"], "attention_bias": false, "head_dim": 256,
                "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 12288,
                "full_attention_interval": 4, "linear_conv_kernel_dim": 4,
                "linear_key_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
                "linear_value_head_dim": 128, "max_position_embeddings": 262144,
                "model_type": "qwen3_5_text", "num_attention_heads": 16, "num_hidden_layers": 32,
                "num_key_value_heads": 4, "rms_norm_eps": 1e-06, "rope_parameters":
                { "rope_type": "default", "rope_theta": 10000000, "partial_rotary_factor": 0.25 },
                "tie_word_embeddings": false, "vocab_size": 248320}"#,
        },
    ],
    read: spec,
};

/// Transformers' defaults of the sizes.
const DEFAULTS: &str = r#"{"vocab_size": 248320, "hidden_size": 4096, "intermediate_size": 12288,
    "num_hidden_layers": 32, "num_attention_heads": 16}"#;

/// The order of the rows of a delta net's projections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// A projection for each purpose.
    Separate,
    /// Two projections, by key head.
    Grouped,
}

/// How a relative's configuration differs.
#[derive(Debug, Clone, Copy)]
pub struct Relative {
    /// Defaults of the sizes, as JSON.
    pub defaults: &'static str,
    /// The delta net's projections.
    pub rows: Rows,
    /// Default number of key heads of attention.
    pub key_value_heads: usize,
}

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let own = Relative {
        defaults: DEFAULTS,
        rows: Rows::Separate,
        key_value_heads: 4,
    };
    decoder(config, &own)
}

/// Reads a decoder of the family or of a relative, with a gated MLP in every layer.
pub fn decoder(config: &JsonObject, relative: &Relative) -> Result<DecoderSpec, ConfigError> {
    let config = &read::with_defaults(config.clone(), relative.defaults);
    let differences = Differences {
        norm: NormKind::RmsPlusOne,
        mlp_bias: Bias::Never,
        key_value_heads: Some(relative.key_value_heads),
        head_dim: Some(256),
        positions: 32_768,
        rope: RopeDefaults {
            partial: Some((0.25, "partial_rotary_factor")),
            ..RopeDefaults::default()
        },
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    spec.norm_queries_and_keys(["q_norm", "k_norm"], NormOver::Head, NormKind::RmsPlusOne);
    let attends = attending_layers(config, spec.layers.len())?;
    let hidden_size = spec.hidden_size;
    for (layer, attends) in spec.layers.iter_mut().zip(attends) {
        match (attends, &mut layer.attention) {
            (true, Some(attention)) => {
                attention.gated = true;
                if let Projections::Separate { query, .. } = &mut attention.projections {
                    query.out_features *= 2;
                }
            }
            _ => {
                layer.attention = None;
                let net = delta_net(config, &layer.path, hidden_size, relative.rows)?;
                layer.recurrence = Some(Recurrence::GatedDelta(Box::new(net)));
            }
        }
    }
    Ok(spec)
}

/// For each layer, whether it has attention.
fn attending_layers(config: &JsonObject, layers: usize) -> Result<Vec<bool>, ConfigError> {
    const KINDS: &[(&str, bool)] = &[("full_attention", true), ("linear_attention", false)];
    if let Some(attends) = layer_kinds::read(config, "layer_types", layers, KINDS)? {
        return Ok(attends);
    }
    let interval = config
        .optional_size("full_attention_interval")?
        .unwrap_or(4);
    Ok((1..=layers)
        .map(|number| number.is_multiple_of(interval))
        .collect())
}

fn delta_net(
    config: &JsonObject,
    layer: &str,
    hidden_size: usize,
    rows: Rows,
) -> Result<GatedDelta, ConfigError> {
    let size = |key, default| layer_kinds::size(config, key, default);
    let key_heads = size("linear_num_key_heads", 16)?;
    let value_heads = size("linear_num_value_heads", 32)?;
    let key_width = size("linear_key_head_dim", 128)?;
    let value_width = size("linear_value_head_dim", 128)?;
    if !value_heads.is_multiple_of(key_heads) {
        let expected = format!("a multiple of `linear_num_key_heads` ({key_heads})");
        return Err(config.wrong("linear_num_value_heads", &expected));
    }
    let (keys, values) = (key_heads * key_width, value_heads * value_width);
    let path = format!("{layer}.linear_attn");
    let linear = |name: &str, out, input| Linear::new(format!("{path}.{name}"), out, input, false);
    let from_hidden = |name: &str, out| linear(name, out, hidden_size);
    let parameter = |name| PlainParameter {
        path: path.clone(),
        source: path.clone(),
        name,
        shape: vec![value_heads],
    };
    layer_kinds::must_be_silu(config, "hidden_act")?;
    let epsilon = read::epsilon(config, "rms_norm_eps", 1e-6)?;
    let kernel = layer_kinds::kernel(config, "linear_conv_kernel_dim", 4)?;
    Ok(GatedDelta {
        projections: match rows {
            Rows::Separate => DeltaProjections::Separate {
                qkv: from_hidden("in_proj_qkv", 2 * keys + values),
                z: from_hidden("in_proj_z", values),
                b: from_hidden("in_proj_b", value_heads),
                a: from_hidden("in_proj_a", value_heads),
            },
            Rows::Grouped => DeltaProjections::Grouped {
                qkvz: from_hidden("in_proj_qkvz", 2 * (keys + values)),
                ba: from_hidden("in_proj_ba", 2 * value_heads),
            },
        },
        convolution: Convolution::new(format!("{path}.conv1d"), 2 * keys + values, kernel, false),
        a_log: parameter("A_log"),
        dt_bias: parameter("dt_bias"),
        norm: Norm::new(format!("{path}.norm"), value_width, NormKind::Rms, epsilon),
        out_proj: linear("out_proj", hidden_size, values),
        key_heads,
        value_heads,
        key_width,
        value_width,
    })
}
