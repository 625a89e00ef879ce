//! Bamba (`model_type: "bamba"`): most layers have Mamba-2's mixer instead of attention.
//!
//! - `attn_layer_indices` lists the layers with attention; half of each of its heads is rotated.
//! - The names `feed_forward`, `pre_ff_layernorm` and `final_layernorm`.
//!
//! Source: `modeling_bamba.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::mamba::{GateOrder, MambaSizes};
use crate::arch::rope::RopeDefaults;
use crate::arch::{Arrangement, DecoderSpec, Layer, Mlp, Recurrence, read};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "bamba",
    name: "Bamba",
    special: "Mamba-2's mixers in most layers",
    refused: "",
    targets: DefaultTargets::NONE,
    nested_defaults: None,
    shapes: &[
        // Copies no model: Bamba's layers with the width of a small one.
        Shape {
            name: "bamba-345m",
            copies: None,
            parameters: 345_121_312,
            config: r#"{"architectures": ["BambaForCausalLM"], "attention_bias": false,
                "attn_layer_indices": [9, 18], "hidden_act": "silu", "hidden_size": 1024,
                "intermediate_size": 2816, "mamba_conv_bias": true, "mamba_d_conv": 4,
                "mamba_d_head": 64, "mamba_d_state": 128, "mamba_expand": 2, "mamba_n_groups": 1,
                "mamba_n_heads": 32, "mamba_proj_bias": false, "max_position_embeddings": 4096,
                "mlp_bias": false, "model_type": "bamba", "num_attention_heads": 16,
                "num_hidden_layers": 21, "num_key_value_heads": 4, "rms_norm_eps": 1e-05,
                "rope_theta": 10000.0, "tie_word_embeddings": true, "vocab_size": 32000}"#,
        },
        Shape {
            name: "bamba-9b",
            copies: Some("ibm-ai-platform/Bamba-9B-v1"),
            parameters: 9_780_235_392,
            config: r#"{"architectures": ["BambaForCausalLM"], "attention_bias": false,
                "attn_layer_indices": [9, 18, 27], "hidden_act": "silu", "hidden_size": 4096,
                "intermediate_size": 14336, "mamba_conv_bias": true, "mamba_d_conv": 4,
                "mamba_d_head": 64, "mamba_d_state": 128, "mamba_expand": 2, "mamba_n_groups": 1,
                "mamba_n_heads": 128, "mamba_proj_bias": false, "max_position_embeddings": 262144,
                "mlp_bias": false, "model_type": "bamba", "num_attention_heads": 32,
                "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
                "rope_theta": 10000.0, "tie_word_embeddings": false, "vocab_size": 128256}"#,
        },
    ],
    read: spec,
};

/// Transformers' defaults of the sizes.
const DEFAULTS: &str = r#"{"vocab_size": 128000, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32}"#;

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let config = &with_half_rotated(&read::with_defaults(config.clone(), DEFAULTS))?;
    let differences = Differences {
        epsilon: ("rms_norm_eps", 1e-5),
        mlp_bias: Bias::Key("mlp_bias", false),
        key_value_heads: Some(8),
        positions: 262_144,
        rope: RopeDefaults {
            partial: Some((0.5, "partial_rotary_factor")),
            ..RopeDefaults::default()
        },
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    rename(&mut spec);
    let attends = listed(config, "attn_layer_indices")?;
    let sizes = sizes(config, spec.hidden_size)?;
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        if attends.contains(&index) {
            continue;
        }
        let path = format!("{}.mamba", layer.path);
        let mixer = sizes.read(config, &path, spec.hidden_size)?;
        layer.attention = None;
        layer.recurrence = Some(Recurrence::Mamba2(Box::new(mixer)));
    }
    Ok(spec)
}

/// `config` with the fraction that Transformers always has, whatever the file says outside of
/// `rope_parameters`.
fn with_half_rotated(config: &JsonObject) -> Result<JsonObject, ConfigError> {
    Ok(config.with("partial_rotary_factor", 0.5.into()))
}

/// Gives MLP and norms the names in Bamba and Falcon-H1.
pub fn rename(spec: &mut DecoderSpec) {
    spec.rearrange(|norm| Arrangement::before(norm("input_layernorm"), norm("pre_ff_layernorm")));
    for layer in &mut spec.layers {
        rename_mlp(layer);
    }
    if let Some(norm) = &mut spec.final_norm {
        norm.rename("model", "final_layernorm");
    }
}

fn rename_mlp(layer: &mut Layer) {
    if let Mlp::Gated {
        gate_proj,
        up_proj,
        down_proj,
        ..
    } = &mut layer.mlp
    {
        let names = [
            (gate_proj, "gate_proj"),
            (up_proj, "up_proj"),
            (down_proj, "down_proj"),
        ];
        for (linear, name) in names {
            linear.rename(&layer.path, &format!("feed_forward.{name}"));
        }
    }
}

fn listed(config: &JsonObject, key: &str) -> Result<Vec<usize>, ConfigError> {
    match config.get(key) {
        None => Ok(Vec::new()),
        Some(list) => serde_json::from_value(list.clone())
            .map_err(|_| config.wrong(key, "a list of layers' numbers")),
    }
}

/// The keys of mixers that Bamba, Granite 4 and Falcon-H1 share.
pub fn sizes(config: &JsonObject, hidden_size: usize) -> Result<MambaSizes, ConfigError> {
    let expand = config.optional_size("mamba_expand")?.unwrap_or(2);
    Ok(MambaSizes {
        heads: ("mamba_n_heads", 128),
        head_width: ("mamba_d_head", None),
        groups: ("mamba_n_groups", 1),
        state: ("mamba_d_state", 256),
        kernel: ("mamba_d_conv", 4),
        inner: Some(expand * hidden_size),
        conv_bias: ("mamba_conv_bias", true),
        bias: [("mamba_proj_bias", false); 2],
        activation: "hidden_act",
        gate: GateOrder::First,
        epsilon: read::epsilon(config, "rms_norm_eps", 1e-5)?,
        limit: "time_step_limit",
    })
}
