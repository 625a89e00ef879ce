//! Phi-1.5 and Phi-2 (`model_type: "phi"`).
//!
//! - Attention and perceptron side by side behind one norm, a LayerNorm.
//! - Half of each head is turned, unless `partial_rotary_factor` says otherwise.
//! - `fc2(act(fc1(x)))`, GELU with tanh; biases everywhere, on the head too.
//! - With `qk_layernorm`, LayerNorm of every query and key head.
//!
//! Source: `modeling_phi.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use crate::arch::rope::RopeDefaults;
use crate::arch::{Activation, Arrangement, DecoderSpec, NormKind, NormOver, read};
use crate::json::{ConfigError, JsonObject};

/// Reads the architecture from `config.json`.
pub fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
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
        layer
            .attention
            .o_proj
            .rename(&layer.path, "self_attn.dense");
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
