//! The families that are supported.

mod bloom;
mod cohere;
mod falcon;
mod gemma;
mod gemma2;
mod gemma3;
mod gpt2;
mod gpt_neox;
mod gptj;
mod granite;
mod llama;
mod mistral;
mod mixtral;
mod mpt;
mod olmo;
mod olmo2;
mod olmoe;
mod opt;
mod phi;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod smollm3;
mod stablelm;
mod starcoder2;

use super::{DecoderSpec, wrappers};
use crate::json::{ConfigError, JsonObject};

/// Models with the same `model_type`.
#[derive(Debug)]
pub struct Family {
    /// `model_type` of `config.json`.
    pub model_type: &'static str,
    /// What people call them.
    pub name: &'static str,
    /// What is special about them.
    pub special: &'static str,
    /// Options that are refused by name.
    pub refused: &'static str,
    pub(super) read: fn(&JsonObject) -> Result<DecoderSpec, ConfigError>,
}

/// All of them.
pub const FAMILIES: &[Family] = &[
    Family {
        model_type: "llama",
        name: "Llama, SmolLM2 and others",
        special: "RMSNorm, rotary positions, grouped queries, gated MLP",
        refused: "",
        read: llama::spec,
    },
    Family {
        model_type: "mistral",
        name: "Mistral",
        special: "sliding window",
        refused: "",
        read: mistral::spec,
    },
    Family {
        model_type: "qwen2",
        name: "Qwen2, Qwen2.5",
        special: "biases on queries, keys and values; window in the last layers",
        refused: "",
        read: qwen2::spec,
    },
    Family {
        model_type: "qwen3",
        name: "Qwen3",
        special: "norms of query and key heads",
        refused: "",
        read: qwen3::spec,
    },
    Family {
        model_type: "smollm3",
        name: "SmolLM3",
        special: "layers without positions",
        refused: "",
        read: smollm3::spec,
    },
    Family {
        model_type: "olmo",
        name: "OLMo",
        special: "LayerNorm without parameters, `clip_qkv`",
        refused: "",
        read: olmo::spec,
    },
    Family {
        model_type: "olmo2",
        name: "OLMo 2",
        special: "norms after the sublayers; norms of whole query and key projections",
        refused: "",
        read: olmo2::spec,
    },
    Family {
        model_type: "granite",
        name: "Granite 3",
        special: "multipliers on embeddings, scores, residuals and logits",
        refused: "",
        read: granite::spec,
    },
    Family {
        model_type: "stablelm",
        name: "StableLM",
        special: "LayerNorm, partial rotary positions, parallel residual",
        refused: "`qk_layernorm`",
        read: stablelm::spec,
    },
    Family {
        model_type: "starcoder2",
        name: "StarCoder2",
        special: "LayerNorm, biases, plain MLP, sliding window",
        refused: "",
        read: starcoder2::spec,
    },
    Family {
        model_type: "gemma",
        name: "Gemma",
        special: "RMSNorm with `1 + weight`, scaled embeddings",
        refused: "`use_bidirectional_attention`",
        read: gemma::spec,
    },
    Family {
        model_type: "gemma2",
        name: "Gemma 2",
        special: "norms around the sublayers, soft caps, alternating sliding windows",
        refused: "`use_bidirectional_attention`",
        read: gemma2::spec,
    },
    Family {
        model_type: "gemma3_text",
        name: "Gemma 3, text only",
        special: "norms of query and key heads, two rotary tables, sliding windows",
        refused: "`use_bidirectional_attention`",
        read: gemma3::spec,
    },
    Family {
        model_type: "cohere",
        name: "Command R",
        special: "parallel residual, interleaved rotary positions, scaled logits",
        refused: "",
        read: cohere::spec,
    },
    Family {
        model_type: "phi",
        name: "Phi-1.5, Phi-2",
        special: "parallel residual, partial rotary positions, head with a bias",
        refused: "",
        read: phi::spec,
    },
    Family {
        model_type: "phi3",
        name: "Phi-3, Phi-3.5, Phi-4-mini",
        special: "fused projections, sliding window, `longrope`",
        refused: "positions beyond `original_max_position_embeddings` with `longrope`",
        read: phi3::spec,
    },
    Family {
        model_type: "mixtral",
        name: "Mixtral",
        special: "experts",
        refused: "adapters on experts and router, except LoRA",
        read: mixtral::spec,
    },
    Family {
        model_type: "qwen3_moe",
        name: "Qwen3 with experts",
        special: "experts in all or some layers; norms of query and key heads",
        refused: "adapters on experts and router, except LoRA",
        read: qwen3_moe::spec,
    },
    Family {
        model_type: "olmoe",
        name: "OLMoE",
        special: "experts; norms of whole query and key projections, `clip_qkv`",
        refused: "adapters on experts and router, except LoRA",
        read: olmoe::spec,
    },
    Family {
        model_type: "opt",
        name: "OPT",
        special: "learned positions, LayerNorm before or after the residual, projected embeddings",
        refused: "",
        read: opt::spec,
    },
    Family {
        model_type: "gpt2",
        name: "GPT-2",
        special: "weights as `[in, out]`, fused projection, learned positions",
        refused: "`add_cross_attention`",
        read: gpt2::spec,
    },
    Family {
        model_type: "gptj",
        name: "GPT-J",
        special: "parallel residual, partial and interleaved rotary positions",
        refused: "",
        read: gptj::spec,
    },
    Family {
        model_type: "gpt_neox",
        name: "GPT-NeoX, Pythia",
        special: "parallel residual with two norms, fused projection by heads, partial rotary positions",
        refused: "",
        read: gpt_neox::spec,
    },
    Family {
        model_type: "falcon",
        name: "Falcon",
        special: "one key head, or fused projection by groups; parallel residual",
        refused: "`alibi`; PREFIX_TUNING and CARTRIDGE with grouped keys",
        read: falcon::spec,
    },
    Family {
        model_type: "bloom",
        name: "BLOOM",
        special: "ALiBi, norm of the embedding, fused projection by heads",
        refused: "",
        read: bloom::spec,
    },
    Family {
        model_type: "mpt",
        name: "MPT",
        special: "ALiBi, no biases, fused projection, `clip_qkv`",
        refused: "options that Transformers' MPT ignores",
        read: mpt::spec,
    },
];

/// Reads a base model's architecture from its `config.json`.
///
/// # Errors
/// If the model type isn't supported, or a key is missing, of a wrong type, or asks for arithmetic
/// that isn't implemented.
pub fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let supported = || {
        let names = FAMILIES.iter().map(|family| family.model_type);
        let wrappers = wrappers::WRAPPERS.iter();
        let wrappers = wrappers.filter(|wrapper| wrapper.refused.is_none());
        let names = names.chain(wrappers.map(|wrapper| wrapper.model_type));
        names.collect::<Vec<&str>>().join(", ")
    };
    let Some(model_type) = config.optional_text("model_type")? else {
        return Err(config.missing("model_type", &format!("one of {}", supported())));
    };
    if let Some(wrapper) = wrappers::wrapper(model_type) {
        return wrapper.spec(config);
    }
    let mut families = FAMILIES.iter();
    match families.find(|family| family.model_type == model_type) {
        Some(family) => (family.read)(config),
        None => Err(ConfigError::Unsupported {
            path: config.path().to_owned(),
            key: "model_type",
            found: model_type.to_owned(),
            supported: supported(),
        }),
    }
}
