//! LN tuning: trains norms, and freezes everything else.
//!
//! | tensor | shape |
//! |---|---|
//! | `<module>.ln_tuning_layers.weight`, `.bias` | as the module's own |
//!
//! They replace the module's parameters. Any module may be targeted: PEFT copies it whole.
//!
//! Sources: Zhao et al., arXiv:2312.11420; PEFT, `tuners/ln_tuning/`.

use super::{Class, Method};
use crate::adapter::replaced::{replace, replace_modules};
use crate::adapter::targets::Targets;
use crate::adapter::targets::defaults::LN_TUNING;
use crate::adapter::toolbox::tuner::Loading;
use crate::adapter::{AdapterError, Effects};

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "LN_TUNING",
    class: Class::Parameter,
    variants: "",
    refused: "",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let Loading {
        config,
        base,
        tensors,
        ..
    } = loading;
    let targets = Targets::with_defaults(config, &base.spec.model_type, LN_TUNING)?;
    let modules = base.spec.modules();
    let mut effects = Effects::default();
    for module in targets.select(config, tensors, &modules)? {
        for (name, shape) in module.parameters() {
            let key = format!("{}.ln_tuning_layers.{name}", module.path);
            replace(&mut effects, tensors, &module, (name, &shape), key, true)?;
        }
    }
    let saved = targets.saved(config, tensors, &modules)?;
    replace_modules(&mut effects, tensors, &base.spec, &saved)?;
    Ok(effects)
}
