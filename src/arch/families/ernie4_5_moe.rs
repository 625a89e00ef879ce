//! ERNIE 4.5's mixtures of experts (`model_type: "ernie4_5_moe"`).
//!
//! - Llama with rotated pairs of neighbours, and biases everywhere with `use_bias`.
//! - Layers from `moe_layer_start_index` to `moe_layer_end_index` have experts, every
//!   `moe_layer_interval`-th of them; and `moe_num_shared_experts` that every token uses, in one MLP.
//! - A token's experts are those with the highest `softmax(z) + e_score_correction_bias`; their
//!   weights are `softmax(z)` divided by their sum, or by `moe_norm_min` if that's greater.
//!
//! Source: `modeling_ernie4_5_moe.py`, `conversion_mapping.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::experts::describe::{Correction, Experts, Routing, Shared, sizes};
use crate::arch::rope::{Pairs, RopeDefaults};
use crate::arch::{DecoderSpec, Normalised, read};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "ernie4_5_moe",
    name: "ERNIE 4.5 with experts",
    special: "experts chosen with a correction, and shared ones; rotated pairs of neighbours",
    refused: "adapters on experts and router, except LoRA",
    targets: DefaultTargets::NONE,
    nested_defaults: None,
    shapes: &[Shape {
        name: "ernie-4.5-21b-a3b",
        copies: Some("baidu/ERNIE-4.5-21B-A3B-PT"),
        parameters: 21_825_437_888,
        config: r#"{"architectures": ["Ernie4_5_MoeForCausalLM"], "hidden_act": "silu",
            "hidden_size": 2560, "intermediate_size": 12288, "max_position_embeddings": 131072,
            "model_type": "ernie4_5_moe", "moe_intermediate_size": 1536, "moe_k": 6,
            "moe_layer_end_index": 27, "moe_layer_interval": 1, "moe_layer_start_index": 1,
            "moe_num_experts": 64, "moe_num_shared_experts": 2, "num_attention_heads": 20,
            "num_hidden_layers": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-05,
            "rope_theta": 500000.0, "tie_word_embeddings": true, "use_bias": false,
            "vocab_size": 103424}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let bias = Bias::Key("use_bias", false);
    let differences = Differences {
        epsilon: ("rms_norm_eps", 1e-5),
        qkv_bias: bias,
        output_bias: bias,
        mlp_bias: bias,
        tied: true,
        key_value_heads: Some(4),
        positions: 131_072,
        rope: RopeDefaults {
            theta: (500_000.0, "rope_theta"),
            pairs: Pairs::Neighbours,
            ..RopeDefaults::default()
        },
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    let has_bias = config.flag("use_bias", false)?;
    spec.lm_head.bias = has_bias;
    spec.lm_head.bias_key = Some("use_bias");

    let count = read::either(config, ["moe_num_experts", "num_experts"]);
    let per_token = read::either(config, ["moe_k", "num_experts_per_tok"]);
    let sizes = sizes(config, [(count, Some(64)), (per_token, Some(6))])?;
    let least = config.optional_number("moe_norm_min")?.unwrap_or(1e-12);
    let routing = Routing {
        correction: Some(Correction {
            module: ["gate.moe_statics", "moe_statics"],
            is_row: true,
            ..Correction::OF_GATE
        }),
        normalised: Normalised::SumAtLeast(least),
        in_float32: true,
        ..Routing::SOFTMAX
    };
    let size = config.optional_size("moe_intermediate_size")?;
    let size = size.unwrap_or(1536);
    let shared = read::count(config, "moe_num_shared_experts", 2)?;
    let experts = Experts {
        shared: (shared > 0).then_some(Shared {
            bias: has_bias,
            ..Shared::gated("shared_experts", shared * size)
        }),
        ..Experts::new(sizes, size, routing)
    };
    let first = read::count(config, "moe_layer_start_index", 1)?;
    const END: &str = "moe_layer_end_index";
    let last = match config.get(END) {
        None => spec.layers.len() - 1,
        Some(value) if value.as_i64() == Some(-1) => spec.layers.len() - 1,
        Some(_) => read::count(config, END, 0)?,
    };
    let step = config.optional_size("moe_layer_interval")?.unwrap_or(1);
    experts.replace(&mut spec, |layer| {
        (layer + 1).is_multiple_of(step) && (first..=last).contains(&layer)
    });
    Ok(spec)
}
