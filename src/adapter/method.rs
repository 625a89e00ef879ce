//! From `peft_type` to the method that implements it.

use super::{AdapterError, AdapterTensors, Effects, ln_tuning, lora, prefix_tuning, prompt_tuning};
use crate::arch::DecoderSpec;
use crate::json_object::{ConfigError, JsonObject};
use crate::model::BaseModel;

/// Values of `peft_type` that are supported.
pub const PEFT_TYPES: [&str; 4] = ["LORA", "LN_TUNING", "PROMPT_TUNING", "PREFIX_TUNING"];

/// The `peft_type` of an `adapter_config.json`.
///
/// # Errors
/// If it's absent or not supported.
pub fn peft_type(config: &JsonObject) -> Result<&'static str, ConfigError> {
    let supported = PEFT_TYPES.join(", ");
    let found = config
        .optional_text("peft_type")?
        .ok_or_else(|| config.missing("peft_type", &format!("one of {supported}")))?;
    let known = PEFT_TYPES.into_iter().find(|&name| name == found);
    known.ok_or_else(|| ConfigError::Unsupported {
        path: config.path().to_owned(),
        key: "peft_type",
        found: found.to_owned(),
        supported,
    })
}

/// Reads an adapter by its method.
pub fn load(
    config: &JsonObject,
    base: &BaseModel,
    tensors: &mut AdapterTensors,
) -> Result<(DecoderSpec, Effects), AdapterError> {
    match config.optional_text("task_type")? {
        None | Some("CAUSAL_LM") => {}
        Some(_) => return Err(config.wrong("task_type", "`CAUSAL_LM`").into()),
    }
    // Prompt methods say how many stacks get the prompt: an encoder and a decoder would be 2.
    let submodules = config.optional_size("num_transformer_submodules")?;
    if submodules.unwrap_or(1) != 1 {
        let expected = "1, for a decoder";
        return Err(config.wrong("num_transformer_submodules", expected).into());
    }
    let unchanged = |effects: Effects| (base.spec.clone(), effects);
    match peft_type(config)? {
        "LORA" => lora::load(config, base, tensors),
        "LN_TUNING" => ln_tuning::load(config, base, tensors).map(unchanged),
        "PROMPT_TUNING" => prompt_tuning::load(config, base, tensors).map(unchanged),
        "PREFIX_TUNING" => prefix_tuning::load(config, base, tensors).map(unchanged),
        other => unreachable!("`{other}` is listed as supported and has no method"),
    }
}
