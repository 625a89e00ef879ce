//! Granite 4 (`model_type: "granitemoehybrid"`): Granite, most of whose layers have Mamba-2's mixer
//! instead of attention.
//!
//! - `layer_types` says `linear_attention` (`mamba` in older files) or `full_attention`
//!   (`attention`) for each layer; by default none has attention.
//! - Attention has no positions, unless `position_embedding_type` is `rope`.
//! - Every layer has the MLP `shared_mlp`, and with `num_local_experts` experts beside it.
//!
//! Source: `modeling_granitemoehybrid.py`, Hugging Face Transformers.

use super::bamba::sizes;
use super::{DefaultTargets, Family, Shape, granitemoe};
use crate::arch::experts::describe::{Experts, Shared, SharedProjections};
use crate::arch::mamba::MambaSizes;
use crate::arch::{Activation, DecoderSpec, Linear, Mlp, Position, Recurrence, layer_kinds, read};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "granitemoehybrid",
    name: "Granite 4",
    special: "Mamba-2's mixers in most layers; multipliers on embeddings, scores, residuals and logits; experts in some models",
    refused: "adapters on experts and router, except LoRA",
    targets: DefaultTargets::NONE,
    nested_defaults: None,
    shapes: &[Shape {
        name: "granite-4.0-h-350m",
        copies: Some("ibm-granite/granite-4.0-h-350m"),
        parameters: 340_332_224,
        config: r#"{"architectures": ["GraniteMoeHybridForCausalLM"], "attention_bias": false,
            "attention_multiplier": 0.015625, "embedding_multiplier": 12, "hidden_act": "silu",
            "hidden_size": 768, "intermediate_size": 2048, "layer_types": ["mamba", "mamba", "mamba",
            "mamba", "mamba", "mamba", "mamba", "mamba", "mamba", "mamba", "attention", "mamba",
            "mamba", "attention", "mamba", "mamba", "mamba", "attention", "mamba", "mamba", "mamba",
            "mamba", "mamba", "mamba", "mamba", "mamba", "mamba", "attention", "mamba", "mamba",
            "mamba", "mamba"], "logits_scaling": 3, "mamba_conv_bias": true, "mamba_d_conv": 4,
            "mamba_d_head": 32, "mamba_d_state": 128, "mamba_expand": 2, "mamba_n_groups": 1,
            "mamba_n_heads": 48, "mamba_proj_bias": false, "max_position_embeddings": 32768,
            "model_type": "granitemoehybrid", "num_attention_heads": 12, "num_experts_per_tok": 0,
            "num_hidden_layers": 32, "num_key_value_heads": 4, "num_local_experts": 0,
            "position_embedding_type": "nope", "residual_multiplier": 0.246, "rms_norm_eps": 1e-05,
            "rope_theta": 10000, "shared_intermediate_size": 2048, "tie_word_embeddings": true,
            "vocab_size": 100352}"#,
    }],
    read: spec,
};

/// Transformers' defaults of the sizes.
const DEFAULTS: &str = r#"{"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
    "num_hidden_layers": 32, "num_attention_heads": 32}"#;

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let config = &read::with_defaults(config.clone(), DEFAULTS);
    let mut spec = granitemoe::decoder(config)?;
    if config.optional_text("position_embedding_type")? != Some("rope") {
        for attention in spec.attentions_mut() {
            attention.position = Position::None;
        }
    }
    put_mlps(config, &mut spec)?;
    const KINDS: &[(&str, bool)] = &[
        ("linear_attention", false),
        ("full_attention", true),
        ("mamba", false),
        ("attention", true),
    ];
    let count = spec.layers.len();
    let key = read::either(config, ["layer_types", "layers_block_type"]);
    let attends = layer_kinds::read(config, key, count, KINDS)?;
    let attends = attends.unwrap_or_else(|| vec![false; count]);
    let sizes = MambaSizes {
        epsilon: read::epsilon(config, "rms_norm_eps", 1e-6)?,
        ..sizes(config, spec.hidden_size)?
    };
    for (layer, attends) in spec.layers.iter_mut().zip(attends) {
        if attends {
            continue;
        }
        let path = format!("{}.mamba", layer.path);
        let mixer = sizes.read(config, &path, spec.hidden_size)?;
        layer.attention = None;
        layer.recurrence = Some(Recurrence::Mamba2(Box::new(mixer)));
    }
    Ok(spec)
}

/// Gives every layer its MLP, and its experts.
fn put_mlps(config: &JsonObject, spec: &mut DecoderSpec) -> Result<(), ConfigError> {
    let size = config.optional_size("shared_intermediate_size")?;
    let size = size.unwrap_or(1024);
    if read::count(config, "num_local_experts", 8)? > 0 {
        let shared = Shared {
            beside_block: true,
            projections: SharedProjections::Fused,
            ..Shared::gated("shared_mlp", size)
        };
        let experts = Experts {
            shared: Some(shared),
            ..granitemoe::experts(config)?
        };
        experts.replace(spec, |_| true);
        return Ok(());
    }
    let activation = read::activation(config, "hidden_act", Activation::Silu)?;
    let hidden_size = spec.hidden_size;
    for layer in &mut spec.layers {
        let at = |name: &str| format!("{}.shared_mlp.{name}", layer.path);
        layer.mlp = Mlp::GatedFused {
            gate_up_proj: Linear::new(at("input_linear"), 2 * size, hidden_size, false),
            down_proj: Linear::new(at("output_linear"), hidden_size, size, false),
            activation,
        };
    }
    Ok(())
}
