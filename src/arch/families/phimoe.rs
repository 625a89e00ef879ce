//! Phi-3.5-MoE (`model_type: "phimoe"`): Mixtral with LayerNorm, and another router.
//!
//! - LayerNorm with biases; biases of the attention with `attention_bias`, of the head with
//!   `lm_head_bias`.
//! - A token uses two experts, each with a softmax over the logits near its own
//!   ([`Scores::SparseMixer`]).
//! - A window of `sliding_window` tokens, unless it's null.
//! - With `longrope`, cosines and sines are multiplied by `short_mscale`. Beyond
//!   `original_max_position_embeddings` Transformers takes `long_mscale` for new keys; positions end
//!   there.
//!
//! Source: `modeling_phimoe.py`, `conversion_mapping.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::experts::describe::{Experts, Routing, check_sizes, sizes};
use crate::arch::rope::RopeDefaults;
use crate::arch::{DecoderSpec, NormKind, Position, RouterModule, Scores, read, windows};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "phimoe",
    name: "Phi-3.5-MoE",
    special: "experts picked by sparse mixing; LayerNorm, biases of attention and head",
    refused: "adapters on experts and router, except LoRA",
    targets: DefaultTargets::NONE,
    nested_defaults: None,
    shapes: &[Shape {
        name: "phi-3.5-moe",
        copies: Some("microsoft/Phi-3.5-MoE-instruct"),
        parameters: 41_873_153_344,
        config: r#"{"architectures": ["PhimoeForCausalLM"], "attention_bias": true,
            "hidden_act": "silu", "hidden_size": 4096, "input_jitter_noise": 0.01,
            "intermediate_size": 6400, "lm_head_bias": true, "max_position_embeddings": 131072,
            "model_type": "phimoe", "num_attention_heads": 32, "num_experts_per_tok": 2,
            "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 16,
            "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "router_jitter_noise": 0.01,
            "sliding_window": 131072, "tie_word_embeddings": false, "vocab_size": 32064}"#,
    }],
    read: spec,
};

/// The router picks this many experts, whatever `num_experts_per_tok` is.
const PICKED: usize = 2;

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        norm: NormKind::Layer,
        epsilon: ("rms_norm_eps", 1e-5),
        mlp_bias: Bias::Never,
        key_value_heads: Some(8),
        positions: 4096 * 32,
        rope: RopeDefaults {
            theta: (1_000_000.0, "rope_theta"),
            ..RopeDefaults::default()
        },
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    spec.lm_head.bias = config.flag("lm_head_bias", false)?;
    spec.lm_head.bias_key = Some("lm_head_bias");

    let keys = [
        ("num_local_experts", Some(16)),
        ("num_experts_per_tok", Some(2)),
    ];
    let [count, _] = sizes(config, keys)?;
    check_sizes(config, "num_local_experts", [count, PICKED])?;
    let epsilon = config.optional_number("router_jitter_noise")?;
    let routing = Routing {
        held_as: RouterModule::LinearWithMore,
        scores: Scores::SparseMixer {
            epsilon: epsilon.unwrap_or(0.01),
        },
        ..Routing::SOFTMAX
    };
    let size = config.size("intermediate_size")?;
    let experts = Experts {
        names: ["w1", "w3", "w2"],
        block: ["mlp", "block_sparse_moe"],
        router: ["router", "gate"],
        ..Experts::new([count, PICKED], size, routing)
    };
    experts.replace(&mut spec, |_| true);

    set_rotary_factor(config, &mut spec)?;
    let window = windows::size(config, None)?;
    let every = vec![true; spec.layers.len()];
    windows::set(&mut spec, &every, window);
    Ok(spec)
}

/// Replaces the factor of a scaled rotary embedding by the family's own.
fn set_rotary_factor(config: &JsonObject, spec: &mut DecoderSpec) -> Result<(), ConfigError> {
    let key = match config.get("rope_parameters") {
        Some(_) => "rope_parameters",
        None => "rope_scaling",
    };
    let Some(parameters) = config.optional_object(key)? else {
        return Ok(());
    };
    let key = read::either(&parameters, ["rope_type", "type"]);
    match parameters.optional_text(key)? {
        None | Some("default") => return Ok(()),
        Some("longrope") => {}
        Some(_) => return Err(parameters.wrong(key, "`default` or `longrope`, for this family")),
    }
    let short = parameters.number("short_mscale")?;
    parameters.number("long_mscale")?;
    for attention in spec.attentions_mut() {
        if let Position::Rotary(rotary) = &mut attention.position {
            rotary.factor = short as f32;
        }
    }
    Ok(())
}
