//! Modules whose weights Transformers' fused kernels read past an adapter.

use crate::adapter::AdapterError;
use crate::arch::{Module, last_name};
use crate::json::JsonObject;
use crate::model::BaseModel;

/// The methods for which PEFT checks this.
const METHODS: [&str; 4] = ["ADALORA", "LORA", "RANDLORA", "XLORA"];

/// The families with such kernels.
const FAMILIES: [&str; 3] = ["falcon_h1", "mamba2", "nemotron_h"];

/// Last parts of the modules' names.
const NAMES: [&str; 2] = ["out_proj", "conv1d"];

/// Refuses what PEFT refuses: some methods on the mixers' `out_proj` and `conv1d`, whose weights
/// Transformers' kernels for training read without the adapter.
///
/// Source: PEFT, `tuners/tuners_utils.py`, `_check_lora_target_modules_mamba`.
///
/// # Errors
/// If such a module is among `selected`.
pub fn refuse_read_past(
    config: &JsonObject,
    base: &BaseModel,
    selected: &[Module],
) -> Result<(), AdapterError> {
    let method = config.optional_text("peft_type")?.unwrap_or_default();
    let family = base.spec.model_type.as_str();
    if !METHODS.contains(&method) || !FAMILIES.contains(&family) {
        return Ok(());
    }
    let is_named = |module: &&Module| NAMES.contains(&last_name(&module.path));
    match selected.iter().find(is_named) {
        None => Ok(()),
        Some(module) => Err(AdapterError::Targets {
            path: config.path().to_owned(),
            message: format!(
                "`target_modules` selects `{}`, whose weight the fused kernels of a `{family}` read past an adapter; PEFT refuses \
                 {method} on `out_proj` and `conv1d` there, too",
                module.path
            ),
        }),
    }
}
