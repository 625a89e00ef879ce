//! Mixtral (`model_type: "mixtral"`): Mistral with experts.
//!
//! - Each token uses `num_experts_per_tok` of `num_local_experts` experts, weighted by a softmax
//!   over all experts that's normalized over the selected ones.
//! - A window of `sliding_window` tokens, unless it's null.
//!
//! Source: `modeling_mixtral.py`, `conversion_mapping.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::experts::describe::{Experts, Routing, sizes};
use crate::arch::rope::RopeDefaults;
use crate::arch::{DecoderSpec, windows};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "mixtral",
    name: "Mixtral",
    special: "experts",
    refused: "adapters on experts and router, except LoRA",
    targets: DefaultTargets {
        beft: &["v_proj"],
        ia3: &["k_proj", "v_proj", "w2"],
        ia3_feedforward: &["w2"],
        osf: &[
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "down_proj",
            "up_proj",
        ],
        ..DefaultTargets::alike(&["q_proj", "v_proj"])
    },
    nested_defaults: None,
    shapes: &[Shape {
        name: "mixtral-8x7b",
        copies: Some("mistralai/Mixtral-8x7B-v0.1"),
        parameters: 46_702_792_704,
        config: r#"{"architectures": ["MixtralForCausalLM"], "hidden_act": "silu", "hidden_size": 4096,
            "intermediate_size": 14336, "max_position_embeddings": 32768,
            "model_type": "mixtral", "num_attention_heads": 32, "num_experts_per_tok": 2,
            "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8,
            "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "sliding_window": null,
            "tie_word_embeddings": false, "vocab_size": 32000}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        epsilon: ("rms_norm_eps", 1e-5),
        qkv_bias: Bias::Never,
        output_bias: Bias::Never,
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
    let size = config.size("intermediate_size")?;
    let keys = ["num_local_experts", "num_experts_per_tok"].map(|key| (key, None));
    let experts = Experts {
        names: ["w1", "w3", "w2"],
        block: ["mlp", "block_sparse_moe"],
        ..Experts::new(sizes(config, keys)?, size, Routing::softmax(true))
    };
    experts.replace(&mut spec, |_| true);
    let window = windows::size(config, None)?;
    let every = vec![true; spec.layers.len()];
    windows::set(&mut spec, &every, window);
    Ok(spec)
}
