//! Hunyuan's mixtures of experts (`model_type: "hunyuan_v1_moe"`): Hunyuan with experts.
//!
//! - RMSNorm of every query and key head, after the rotary embedding
//!   ([`super::hunyuan_v1_dense`]).
//! - Every layer has experts, and an MLP that every token uses. The weights of a token's experts are
//!   a softmax, divided by their sum.
//! - `moe_topk` may be a list with a number for each layer.
//!
//! Source: `modeling_hunyuan_v1_moe.py`, Hugging Face Transformers.

use super::llama::{self, Bias, Differences};
use super::{DefaultTargets, Family, Shape, hunyuan_v1_dense};
use crate::arch::experts::describe::{Experts, Routing, Shared, check_sizes, sizes};
use crate::arch::{DecoderSpec, NormKind, NormOrder, NormOver, RouterModule, read};
use crate::json::{ConfigError, JsonObject};

/// The entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: Family = Family {
    model_type: "hunyuan_v1_moe",
    name: "Hunyuan with experts",
    special: "experts and a shared one; norms of query and key heads after the rotary embedding",
    refused: "adapters on experts, except LoRA",
    targets: DefaultTargets::NONE,
    nested_defaults: None,
    shapes: &[Shape {
        name: "hunyuan-a13b",
        copies: Some("tencent/Hunyuan-A13B-Instruct"),
        parameters: 80_393_183_232,
        config: r#"{"architectures": ["HunYuanMoEV1ForCausalLM"], "attention_bias": false,
            "head_dim": 128, "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 3072,
            "max_position_embeddings": 32768, "model_type": "hunyuan_v1_moe", "moe_topk": 8,
            "num_attention_heads": 32, "num_experts": 64, "num_hidden_layers": 32,
            "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_scaling": { "alpha": 1000.0,
            "factor": 1.0, "type": "dynamic" }, "rope_theta": 10000.0,
            "tie_word_embeddings": true, "vocab_size": 128167}"#,
    }],
    read: spec,
};

/// Reads the architecture from `config.json`.
fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let differences = Differences {
        epsilon: ("rms_norm_eps", 1e-5),
        mlp_bias: Bias::Never,
        ..Differences::default()
    };
    let config = &hunyuan_v1_dense::with_stretched_base(config)?;
    let mut spec = llama::decoder(config, &differences)?;
    let names = ["query_layernorm", "key_layernorm"];
    spec.norm_queries_and_keys(names, NormOver::Head, NormKind::Rms);
    for attention in spec.attentions_mut() {
        attention.norm_order = NormOrder::AfterRotation;
    }

    let layers = spec.layers.len();
    let per_token = read::either(config, ["moe_topk", "num_experts_per_tok"]);
    let of_layers: Vec<usize> = match config.get(per_token) {
        Some(list @ serde_json::Value::Array(_)) => serde_json::from_value(list.clone())
            .ok()
            .filter(|list: &Vec<usize>| list.len() >= layers && !list.contains(&0))
            .ok_or_else(|| {
                let expected = format!("a number of experts for each of the {layers} layers");
                config.wrong(per_token, &expected)
            })?,
        _ => vec![config.optional_size(per_token)?.unwrap_or(1); layers],
    };
    let count = read::either(config, ["num_experts", "num_local_experts"]);
    let [count, _] = sizes(config, [(count, Some(1)), ("", Some(1))])?;
    let size = config.size("intermediate_size")?;
    let routing = Routing {
        held_as: RouterModule::Linear,
        ..Routing::softmax(true)
    };
    for (index, per_token_of_layer) in of_layers.into_iter().enumerate() {
        check_sizes(config, per_token, [count, per_token_of_layer])?;
        let experts = Experts {
            router: ["gate.wg", "gate.wg"],
            shared: Some(Shared::gated("shared_mlp", size)),
            ..Experts::new([count, per_token_of_layer], size, routing)
        };
        experts.replace(&mut spec, |layer| layer == index);
    }
    Ok(spec)
}
