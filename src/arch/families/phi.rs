//! Phi-1.5 and Phi-2 (`model_type: "phi"`).
//!
//! - Attention and MLP in parallel after one norm, a LayerNorm.
//! - Half of each head is rotated, unless `partial_rotary_factor` says otherwise.
//! - `fc2(act(fc1(x)))`, GELU with tanh; biases everywhere, on the head too.
//! - With `qk_layernorm`, LayerNorm of every query and key head.
//!
//! Source: `modeling_phi.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape};
use crate::arch::rope::RopeDefaults;
use crate::arch::{Activation, Arrangement, DecoderSpec, NormKind, NormOver, read};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "phi",
    name: "Phi-1.5, Phi-2",
    special: "parallel residual, partial rotary positions, head with a bias",
    refused: "",
    targets: DefaultTargets {
        query_value_only: &["q_proj", "v_proj"],
        beft: &["v_proj"],
        ia3: &["q_proj", "v_proj", "fc2"],
        ia3_feedforward: &["fc2"],
        ln_tuning: &["input_layernorm", "final_layernorm"],
        osf: &[
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "down_proj",
            "up_proj",
        ],
        ..DefaultTargets::alike(&["q_proj", "v_proj", "fc1", "fc2"])
    },
    nested_defaults: Some(
        r#"{"vocab_size": 51200, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24,
            "num_attention_heads": 32}"#,
    ),
    shapes: &[Shape {
        name: "phi-2",
        copies: Some("microsoft/phi-2"),
        parameters: 2_779_683_840,
        config: r#"{"architectures": ["PhiForCausalLM"], "hidden_act": "gelu_new", "hidden_size": 2560,
            "intermediate_size": 10240, "layer_norm_eps": 1e-05,
            "max_position_embeddings": 2048, "model_type": "phi", "num_attention_heads": 32,
            "num_hidden_layers": 32, "num_key_value_heads": 32, "partial_rotary_factor": 0.4,
            "qk_layernorm": false, "rope_scaling": null, "rope_theta": 10000.0,
            "tie_word_embeddings": false, "vocab_size": 51200}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        norm: NormKind::Layer,
        epsilon: ("layer_norm_eps", 1e-5),
        qkv_bias: Bias::Always,
        output_bias: Bias::Always,
        mlp_bias: Bias::Always,
        activation: ("hidden_act", Activation::GeluTanh),
        rope: RopeDefaults {
            partial: Some((0.5, "partial_rotary_factor")),
            ..RopeDefaults::default()
        },
        ..Differences::default()
    };
    let mut spec = llama::decoder(config, &differences)?;
    spec.rearrange(|norm| Arrangement::parallel(norm("input_layernorm"), None));
    spec.make_mlps_plain(["mlp.fc1", "mlp.fc2"]);
    for layer in &mut spec.layers {
        if let Some(attention) = &mut layer.attention {
            attention.o_proj.rename(&layer.path, "self_attn.dense");
        }
    }
    if config.flag("qk_layernorm", false)? {
        let names = ["q_layernorm", "k_layernorm"];
        spec.norm_queries_and_keys(names, NormOver::Head, NormKind::Layer);
    }
    if let Some(norm) = &mut spec.final_norm {
        norm.rename("model", "final_layernorm");
    }
    spec.lm_head = read::head(config, false, &spec.embed_tokens, "lm_head", true)?;
    Ok(spec)
}
