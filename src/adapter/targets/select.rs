//! Selects the targeted modules of a model, and reports names that match none. In a fresh
//! experiment those are misspellings. In a trained adapter they may be meant for other models: its
//! tensors tell what it adapts, and each must be used.

use serde_json::Value;

use super::pattern::{NamePattern, is_named};
use super::{Include, Targets};
use crate::adapter::{AdapterError, AdapterTensors};
use crate::arch::{Module, ModuleKind, last_name};
use crate::json::check::{did_you_mean, nearest};
use crate::json::{ConfigError, JsonObject};

impl Targets {
    /// The targeted modules among `modules`. A name that matches none, which PEFT ignores silently,
    /// is an error in a fresh adapter, and a note in `tensors` for a trained one.
    ///
    /// # Errors
    /// If no module is targeted.
    pub fn select(
        &self,
        config: &JsonObject,
        tensors: &mut AdapterTensors,
        modules: &[Module],
    ) -> Result<Vec<Module>, AdapterError> {
        self.check_every_layer(config, tensors, modules)?;
        let mut selected = Vec::new();
        for module in modules {
            if self.contains(config, module)? {
                selected.push(module.clone());
            }
        }
        if selected.is_empty() && !matches!(self.include, Include::Nothing) {
            let asked = config
                .get("target_modules")
                .map_or_else(String::new, Value::to_string);
            return Err(AdapterError::Targets {
                path: config.path().to_owned(),
                message: format!(
                    "`target_modules` {asked} matches no module of this model{}; it has {}",
                    did_you_mean(&self.meant(modules)),
                    examples(modules)
                ),
            });
        }
        if let (false, Include::Pattern(NamePattern::Names(names))) =
            (self.are_defaults, &self.include)
        {
            let is_there = |name: &&String| {
                let mut paths = modules.iter().map(|module| &module.path);
                paths.any(|path| is_named(config, path, name))
            };
            let absent: Vec<&String> = names.iter().filter(|name| !is_there(name)).collect();
            pass_over("target_modules", &absent, config, tensors, modules)?;
        }
        Ok(selected)
    }

    /// The name of a module that the first of `target_modules` may be a misspelling of.
    fn meant(&self, modules: &[Module]) -> Option<String> {
        match &self.include {
            Include::Pattern(NamePattern::Names(names)) => {
                nearest(names.first()?, &last_names(modules))
            }
            _ => None,
        }
    }

    /// Checks `layers_to_transform` for layers that the model doesn't have.
    fn check_every_layer(
        &self,
        config: &JsonObject,
        tensors: &mut AdapterTensors,
        modules: &[Module],
    ) -> Result<(), ConfigError> {
        const KEY: &str = "layers_to_transform";
        let number = |module: &Module| module.path.split('.').find_map(|part| part.parse().ok());
        let last: Option<usize> = modules.iter().filter_map(number).max();
        let (Some(layers), Some(last)) = (&self.layers, last) else {
            return Ok(());
        };
        let absent: Vec<&usize> = layers.iter().filter(|layer| **layer > last).collect();
        if absent.is_empty() {
            return Ok(());
        }
        let range = format!("this model's layers, 0 to {last}");
        if tensors.is_fresh() {
            return Err(config.wrong(KEY, &format!("indices of {range}")));
        }
        tensors.note(format!(
            "`{KEY}` has {absent:?} in addition to {range}; every tensor of the adapter is used"
        ));
        Ok(())
    }

    /// The modules that `modules_to_save` names. PEFT compares plain suffixes, so `norm` also
    /// selects `input_layernorm`.
    ///
    /// # Errors
    /// If an entry of a fresh adapter names no module.
    pub fn saved(
        &self,
        config: &JsonObject,
        tensors: &mut AdapterTensors,
        modules: &[Module],
    ) -> Result<Vec<Module>, AdapterError> {
        let mut saved = Vec::new();
        let mut absent = Vec::new();
        for entry in &self.modules_to_save {
            let before = saved.len();
            for module in modules {
                let inside = |path: &String| {
                    path.ends_with(entry.as_str())
                        || path
                            .match_indices('.')
                            .any(|(end, _)| path[..end].ends_with(entry.as_str()))
                };
                if config.spellings(module_of(module)).iter().any(inside) {
                    saved.push(module.clone());
                }
            }
            if saved.len() == before {
                absent.push(entry);
            }
        }
        pass_over("modules_to_save", &absent, config, tensors, modules)?;
        saved.sort_by(|a, b| a.path.cmp(&b.path));
        saved.dedup();
        Ok(saved)
    }
}

/// Reports names in `key` that match no module: an error for a fresh adapter, else a note.
fn pass_over(
    key: &str,
    absent: &[&String],
    config: &JsonObject,
    tensors: &mut AdapterTensors,
    modules: &[Module],
) -> Result<(), AdapterError> {
    let Some(first) = absent.first() else {
        return Ok(());
    };
    if tensors.is_fresh() {
        return Err(AdapterError::Targets {
            path: config.path().to_owned(),
            message: format!(
                "`{first}` in `{key}` matches no module of this model{}; it has {}",
                did_you_mean(&nearest(first, &last_names(modules))),
                examples(modules)
            ),
        });
    }
    let names: Vec<String> = absent.iter().map(|name| format!("`{name}`")).collect();
    tensors.note(format!(
        "`{key}` names {}, which this model doesn't have; every tensor of the adapter is used",
        names.join(", ")
    ));
    Ok(())
}

/// The path of the module in Transformers' model. A single expert isn't one; the module that holds
/// all of a layer's experts is.
fn module_of(module: &Module) -> &str {
    const EXPERTS: &str = ".experts";
    match (&module.kind, module.path.find(".experts.")) {
        (ModuleKind::Routed { .. }, Some(at)) => &module.path[..at + EXPERTS.len()],
        _ => &module.path,
    }
}

/// The last segments of the modules' paths, each once, in words.
fn examples(modules: &[Module]) -> String {
    last_names(modules).join(", ")
}

/// The last segments of the modules' paths, each once.
fn last_names(modules: &[Module]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for module in modules {
        let name = last_name(&module.path);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}
