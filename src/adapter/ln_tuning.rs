//! LN tuning: norms are trained, everything else is frozen.
//!
//! | tensor | shape |
//! |---|---|
//! | `<module>.ln_tuning_layers.weight`, `.bias` | those of the module |
//!
//! They replace the module's parameters as they stand. Any module may be targeted: PEFT copies it whole.
//!
//! Sources: Zhao et al., arXiv:2312.11420; PEFT, `tuners/ln_tuning/`.

use super::replaced::{replace, replace_modules};
use super::targets::Targets;
use super::{AdapterError, AdapterTensors, Effects};
use crate::json_object::JsonObject;
use crate::model::BaseModel;

/// Targets where the configuration gives none, by model type.
fn default_targets(model_type: &str) -> Option<&'static [&'static str]> {
    match model_type {
        "llama" => Some(&["input_layernorm", "post_attention_layernorm", "norm"]),
        _ => None,
    }
}

/// Reads the adapter.
pub fn load(
    config: &JsonObject,
    base: &BaseModel,
    tensors: &mut AdapterTensors,
) -> Result<Effects, AdapterError> {
    let model_type = base.spec.model_type.as_str();
    let targets = Targets::read(config, model_type, default_targets(model_type))?;
    let modules = base.spec.modules();
    let mut effects = Effects::default();
    for module in targets.select(config, &modules)? {
        for (name, shape) in module.parameters() {
            let key = format!("{}.ln_tuning_layers.{name}", module.path);
            replace(&mut effects, tensors, &module, (name, &shape), key, true)?;
        }
    }
    replace_modules(&mut effects, tensors, &targets.saved(config, &modules)?)?;
    Ok(effects)
}
