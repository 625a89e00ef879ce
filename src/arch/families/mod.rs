//! The supported families. Each has a file.

mod apertus;
mod arcee;
mod bamba;
mod bloom;
mod codegen;
mod cohere;
mod cohere2;
mod deepseek_v2;
mod deepseek_v3;
mod dots1;
mod ernie4_5;
mod ernie4_5_moe;
mod exaone4;
mod falcon;
mod falcon_h1;
mod gemma;
mod gemma2;
mod gemma3;
mod gemma3n;
mod gemma4;
mod glm;
mod glm4;
mod glm4_moe;
mod glm4_moe_lite;
mod gpt2;
mod gpt_bigcode;
mod gpt_neo;
mod gpt_neox;
mod gpt_oss;
mod gptj;
mod granite;
mod granitemoe;
mod granitemoehybrid;
mod granitemoeshared;
mod helium;
mod hunyuan_v1_dense;
mod hunyuan_v1_moe;
mod lfm2;
mod lfm2_moe;
mod llama;
mod llama4_text;
mod mamba2;
mod minimax_m2;
mod ministral;
mod ministral3;
mod mistral;
mod mixtral;
mod mpt;
mod nemotron;
mod nemotron_h;
mod olmo;
mod olmo2;
mod olmo3;
mod olmoe;
mod opt;
mod phi;
mod phi3;
mod phimoe;
mod qwen2;
mod qwen2_moe;
mod qwen3;
mod qwen3_5;
mod qwen3_5_moe;
mod qwen3_moe;
mod qwen3_next;
mod seed_oss;
mod smollm3;
mod stablelm;
mod starcoder2;

mod targets;

pub use targets::DefaultTargets;

use super::{DecoderSpec, wrappers};
use crate::json::check::nearest_three;
use crate::json::{ConfigError, JsonObject};

/// The models with one `model_type`. Each family's file defines its own entry.
#[derive(Debug)]
pub struct Family {
    /// `model_type` of `config.json`.
    pub model_type: &'static str,
    /// Their names.
    pub name: &'static str,
    /// What distinguishes the family.
    pub special: &'static str,
    /// Options that are refused.
    pub refused: &'static str,
    /// The modules that methods adapt by default.
    pub targets: DefaultTargets,
    /// Defaults of the keys in a `text_config`, as JSON; `None` if no multimodal model has such a
    /// text tower. A `text_config` omits keys with default values, even those that `read` needs.
    pub nested_defaults: Option<&'static str>,
    /// The synthetic models, `synthetic/<name>`.
    pub shapes: &'static [Shape],
    pub(super) read: fn(&JsonObject) -> Result<DecoderSpec, ConfigError>,
}

/// The architecture and sizes of a known model, from its `config.json` on the Hugging Face hub.
#[derive(Debug)]
pub struct Shape {
    /// The name in `synthetic/<name>`.
    pub name: &'static str,
    /// The hub id of the model that has these sizes.
    pub copies: Option<&'static str>,
    /// Number of parameters; a tied head counts once.
    pub parameters: u64,
    /// `config.json` without the keys that depend on the weights' dtype or the tokenizer.
    pub config: &'static str,
}

/// All families.
pub const FAMILIES: &[&Family] = &[
    &llama::FAMILY,
    &mistral::FAMILY,
    &ministral::FAMILY,
    &ministral3::FAMILY,
    &qwen2::FAMILY,
    &seed_oss::FAMILY,
    &qwen3::FAMILY,
    &smollm3::FAMILY,
    &olmo::FAMILY,
    &olmo2::FAMILY,
    &olmo3::FAMILY,
    &exaone4::FAMILY,
    &granite::FAMILY,
    &stablelm::FAMILY,
    &starcoder2::FAMILY,
    &arcee::FAMILY,
    &nemotron::FAMILY,
    &nemotron_h::FAMILY,
    &apertus::FAMILY,
    &helium::FAMILY,
    &ernie4_5::FAMILY,
    &hunyuan_v1_dense::FAMILY,
    &glm::FAMILY,
    &glm4::FAMILY,
    &gemma::FAMILY,
    &gemma2::FAMILY,
    &gemma3::FAMILY,
    &gemma3n::FAMILY,
    &gemma4::FAMILY,
    &cohere::FAMILY,
    &cohere2::FAMILY,
    &phi::FAMILY,
    &phi3::FAMILY,
    &mixtral::FAMILY,
    &qwen3_moe::FAMILY,
    &olmoe::FAMILY,
    &qwen2_moe::FAMILY,
    &granitemoe::FAMILY,
    &granitemoeshared::FAMILY,
    &glm4_moe::FAMILY,
    &deepseek_v2::FAMILY,
    &deepseek_v3::FAMILY,
    &glm4_moe_lite::FAMILY,
    &dots1::FAMILY,
    &ernie4_5_moe::FAMILY,
    &minimax_m2::FAMILY,
    &phimoe::FAMILY,
    &gpt_oss::FAMILY,
    &hunyuan_v1_moe::FAMILY,
    &llama4_text::FAMILY,
    &lfm2_moe::FAMILY,
    &opt::FAMILY,
    &gpt2::FAMILY,
    &gpt_bigcode::FAMILY,
    &gpt_neo::FAMILY,
    &gptj::FAMILY,
    &codegen::FAMILY,
    &gpt_neox::FAMILY,
    &falcon::FAMILY,
    &bloom::FAMILY,
    &mpt::FAMILY,
    &lfm2::FAMILY,
    &qwen3_5::FAMILY,
    &qwen3_5_moe::FAMILY,
    &qwen3_next::FAMILY,
    &bamba::FAMILY,
    &granitemoehybrid::FAMILY,
    &falcon_h1::FAMILY,
    &mamba2::FAMILY,
];

/// The family with this `model_type`.
pub fn family(model_type: &str) -> Option<&'static Family> {
    let mut families = FAMILIES.iter().copied();
    families.find(|family| family.model_type == model_type)
}

/// Reads a base model's architecture from its `config.json`.
///
/// # Errors
/// If the model type isn't supported, or a key is missing, of a wrong type, or asks for arithmetic
/// that isn't implemented.
pub fn spec(config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
    let Some(model_type) = config.optional_text("model_type")? else {
        let expected = "a family that `peft-bench models` lists, such as `llama`";
        return Err(config.missing("model_type", expected));
    };
    if let Some(wrapper) = wrappers::wrapper(model_type) {
        return wrapper.spec(config);
    }
    if let Some(spec) = wrappers::text_model_alone(model_type, config) {
        return spec;
    }
    match family(model_type) {
        Some(family) => (family.read)(config),
        None => {
            let families = FAMILIES.iter().map(|family| family.model_type);
            let wrappers = wrappers::WRAPPERS.iter();
            let names = families.chain(wrappers.map(|wrapper| wrapper.model_type));
            Err(ConfigError::Unknown {
                path: config.path().to_owned(),
                key: "model_type",
                found: model_type.to_owned(),
                nearest: nearest_three(model_type, &names.collect::<Vec<&str>>()),
                listing: "models",
            })
        }
    }
}
