//! The modules of a model that are targeted, and what no module answers to.

use serde_json::Value;

use super::pattern::{NamePattern, ends_with_name};
use super::{Include, Targets};
use crate::adapter::AdapterError;
use crate::arch::{Module, ModuleKind};
use crate::json_object::{ConfigError, JsonObject};

impl Targets {
    /// The targeted ones of `modules`.
    ///
    /// # Errors
    /// If there's none.
    pub fn select(
        &self,
        config: &JsonObject,
        modules: &[Module],
    ) -> Result<Vec<Module>, AdapterError> {
        self.check_every_layer(config, modules)?;
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
                    "`target_modules` {asked} matches no module of this model; it has {}",
                    examples(modules)
                ),
            });
        }
        self.check_every_name(config, modules)?;
        Ok(selected)
    }

    /// A layer that the model doesn't have; PEFT passes it over without a word.
    fn check_every_layer(
        &self,
        config: &JsonObject,
        modules: &[Module],
    ) -> Result<(), ConfigError> {
        let number = |module: &Module| module.path.split('.').find_map(|part| part.parse().ok());
        let last: Option<usize> = modules.iter().filter_map(number).max();
        let (Some(layers), Some(last)) = (&self.layers, last) else {
            return Ok(());
        };
        if layers.iter().any(|layer| *layer > last) {
            let expected = format!("indices of this model's layers, 0 to {last}");
            return Err(config.wrong("layers_to_transform", &expected));
        }
        Ok(())
    }

    /// A name in a list that no module ends with is a misspelling; PEFT skips it without a word.
    fn check_every_name(
        &self,
        config: &JsonObject,
        modules: &[Module],
    ) -> Result<(), AdapterError> {
        let Include::Pattern(NamePattern::Names(names)) = &self.include else {
            return Ok(());
        };
        if self.are_defaults {
            return Ok(());
        }
        for name in names {
            if !modules
                .iter()
                .any(|module| ends_with_name(&module.path, name))
            {
                return Err(AdapterError::Targets {
                    path: config.path().to_owned(),
                    message: format!(
                        "`{name}` in `target_modules` matches no module of this model; it has {}",
                        examples(modules)
                    ),
                });
            }
        }
        Ok(())
    }

    /// Modules that `modules_to_save` names, by PEFT's plain suffix rule: `norm` also takes
    /// `input_layernorm`.
    ///
    /// # Errors
    /// If an entry names none.
    pub fn saved(
        &self,
        config: &JsonObject,
        modules: &[Module],
    ) -> Result<Vec<Module>, AdapterError> {
        let mut saved = Vec::new();
        for entry in &self.modules_to_save {
            let before = saved.len();
            for module in modules {
                let path = module_of(module);
                let inside = path.ends_with(entry.as_str())
                    || path
                        .match_indices('.')
                        .any(|(end, _)| path[..end].ends_with(entry.as_str()));
                if inside {
                    saved.push(module.clone());
                }
            }
            if saved.len() == before {
                return Err(AdapterError::Targets {
                    path: config.path().to_owned(),
                    message: format!(
                        "`{entry}` in `modules_to_save` matches no module of this model; it has {}",
                        examples(modules)
                    ),
                });
            }
        }
        saved.sort_by(|a, b| a.path.cmp(&b.path));
        saved.dedup();
        Ok(saved)
    }
}

/// The path of what Transformers has as a module: of a single expert, the one that holds the weights of all.
fn module_of(module: &Module) -> &str {
    const EXPERTS: &str = ".experts";
    match (&module.kind, module.path.find(".experts.")) {
        (ModuleKind::Routed { .. }, Some(at)) => &module.path[..at + EXPERTS.len()],
        _ => &module.path,
    }
}

/// The last parts of the modules' paths, each once.
fn examples(modules: &[Module]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for module in modules {
        let name = module.path.rsplit('.').next().unwrap_or(&module.path);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(", ")
}
