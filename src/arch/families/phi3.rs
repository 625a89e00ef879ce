//! Phi-3, Phi-3.5 and Phi-4-mini (`model_type: "phi3"`): Llama with fused projections.
//!
//! - `qkv_proj`: queries, keys and values; `gate_up_proj`: gate and up.
//! - A token sees `sliding_window` tokens, where that isn't null.
//! - `longrope`, which older configurations call `su` or `yarn`.
//!
//! Source: `modeling_phi3.py`, `configuration_phi3.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use crate::arch::rope::RopeDefaults;
use crate::arch::{Declared, DecoderSpec, FusedRows, Linear, Mlp, Projections, windows};
use crate::json::{ConfigError, JsonObject};

/// Reads the architecture from `config.json`.
pub fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        epsilon: ("rms_norm_eps", 1e-5),
        qkv_bias: Bias::Never,
        output_bias: Bias::Never,
        mlp_bias: Bias::Never,
        positions: 4096,
        rope: RopeDefaults {
            partial: Some((1.0, "partial_rotary_factor")),
            original: Some(4096),
            ..RopeDefaults::default()
        },
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    let hidden_size = spec.hidden_size;
    for layer in &mut spec.layers {
        let path = &layer.path;
        let attention = &mut layer.attention;
        let heads = attention.num_attention_heads + 2 * attention.num_key_value_heads;
        attention.projections = Projections::Fused {
            qkv: Linear::new(
                format!("{path}.self_attn.qkv_proj"),
                heads * attention.head_dim,
                hidden_size,
                false,
            ),
            rows: FusedRows::Kinds,
        };
        attention.declared = Declared::OutputFirst;
        if let Mlp::Gated {
            gate_proj,
            down_proj,
            activation,
            ..
        } = &layer.mlp
        {
            layer.mlp = Mlp::GatedFused {
                gate_up_proj: Linear::new(
                    format!("{path}.mlp.gate_up_proj"),
                    2 * gate_proj.out_features,
                    hidden_size,
                    false,
                ),
                down_proj: down_proj.clone(),
                activation: *activation,
            };
        }
    }
    let window = windows::size(config, None)?;
    let every = vec![true; spec.layers.len()];
    windows::set(&mut spec, &every, window);
    Ok(spec)
}
