//! Selects the modules that an adapter targets, by PEFT's rules and in PEFT's order.
//!
//! Source: PEFT, `tuners/tuners_utils.py`.

pub mod defaults;
mod pattern;
mod select;
#[cfg(test)]
mod tests;

pub use defaults::{DefaultTable, QUERY_VALUE};
pub use pattern::{NamePattern, ValuePattern};

use fancy_regex::Regex;
use serde_json::Value;

use crate::arch::{Module, ModuleKind};
use crate::json::{ConfigError, JsonObject};
use pattern::{ends_with_name, is_match, is_named};

/// `target_modules`, `exclude_modules`, `layers_to_transform`, `layers_pattern`, `modules_to_save`.
#[derive(Debug, Clone)]
pub struct Targets {
    include: Include,
    exclude: Option<NamePattern>,
    layers: Option<Vec<usize>>,
    layers_pattern: Vec<String>,
    /// Whether the names are a method's defaults, which PEFT writes into the configuration. Some of
    /// its tables name modules that a family no longer has.
    are_defaults: bool,
    /// Modules that are replaced as a whole: those whose paths end with one of these, at a dot or
    /// not.
    pub modules_to_save: Vec<String>,
}

#[derive(Debug, Clone)]
enum Include {
    AllLinear,
    Pattern(NamePattern),
    /// `target_modules` is null: only other options select modules.
    Nothing,
}

impl Targets {
    /// Reads the options, with a method's defaults by model type.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn with_defaults(
        config: &JsonObject,
        model_type: &str,
        defaults: DefaultTable,
    ) -> Result<Self, ConfigError> {
        Self::read(config, model_type, defaults::names(model_type, defaults))
    }

    /// Reads the options. `defaults` are the names for this model type if `target_modules` is null.
    ///
    /// # Errors
    /// If an option has a wrong type or can't be combined with another, or if `target_modules` is
    /// null and the model type has no default.
    pub fn read(
        config: &JsonObject,
        model_type: &str,
        defaults: Option<&[&str]>,
    ) -> Result<Self, ConfigError> {
        let include = match config.get("target_modules") {
            Some(Value::String(text)) if text.eq_ignore_ascii_case("all-linear") => {
                Include::AllLinear
            }
            Some(_) => match NamePattern::read(config, "target_modules")? {
                Some(pattern) => Include::Pattern(pattern),
                None => Include::Nothing,
            },
            None => match defaults {
                Some(names) => Include::Pattern(NamePattern::Names(
                    names.iter().map(|&name| name.to_owned()).collect(),
                )),
                None => {
                    let expected = format!(
                        "the modules to adapt (this method has no default for model_type \
                         `{model_type}`)"
                    );
                    return Err(config.missing("target_modules", &expected));
                }
            },
        };
        let layers = match config.get("layers_to_transform") {
            None => None,
            Some(Value::Array(list)) if list.is_empty() => None,
            Some(value) => {
                let list = match value {
                    Value::Array(list) => list.clone(),
                    single => vec![single.clone()],
                };
                let list: Option<Vec<usize>> = list
                    .iter()
                    .map(|v| v.as_u64().map(|n| n as usize))
                    .collect();
                let expected = "a layer's index or a list of them";
                Some(list.ok_or_else(|| config.wrong("layers_to_transform", expected))?)
            }
        };
        let layers_pattern = match config.get("layers_pattern") {
            None => Vec::new(),
            Some(Value::String(text)) if text.is_empty() => Vec::new(),
            Some(Value::String(text)) => vec![text.clone()],
            Some(_) => config.optional_texts("layers_pattern")?.unwrap_or_default(),
        };
        if layers.is_some() && matches!(include, Include::Pattern(NamePattern::Whole(_))) {
            let reason = "it can't be combined with a regular expression in `target_modules`";
            return Err(config.refused("layers_to_transform", reason));
        }
        if layers.is_none() && !layers_pattern.is_empty() {
            let reason = "it needs `layers_to_transform`";
            return Err(config.refused("layers_pattern", reason));
        }
        let are_defaults = match (&include, defaults) {
            (Include::Pattern(NamePattern::Names(names)), Some(defaults)) => {
                names.len() == defaults.len()
                    && names.iter().all(|name| defaults.contains(&name.as_str()))
            }
            _ => false,
        };
        Ok(Self {
            include,
            are_defaults,
            exclude: NamePattern::read(config, "exclude_modules")?,
            layers,
            layers_pattern,
            modules_to_save: config
                .optional_texts("modules_to_save")?
                .unwrap_or_default(),
        })
    }

    /// Whether `target_modules` is an empty list.
    pub fn is_empty(&self) -> bool {
        matches!(&self.include, Include::Pattern(NamePattern::Names(names)) if names.is_empty())
    }

    /// Whether `target_modules` is a user's list, every name of which should match.
    pub fn are_listed(&self) -> bool {
        !self.are_defaults && matches!(self.include, Include::Pattern(NamePattern::Names(_)))
    }

    /// Whether `target_modules` has a name that ends with one of `names`, or is a regular
    /// expression that matches one of them alone.
    ///
    /// # Errors
    /// If a regular expression can't be matched.
    pub fn name_one_of(&self, config: &JsonObject, names: &[&str]) -> Result<bool, ConfigError> {
        match &self.include {
            Include::AllLinear | Include::Nothing => Ok(false),
            Include::Pattern(NamePattern::Names(targets)) => Ok(targets
                .iter()
                .any(|target| names.iter().any(|name| ends_with_name(target, name)))),
            Include::Pattern(NamePattern::Whole(regex)) => {
                for name in names {
                    if is_match(config, "target_modules", regex, name)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }

    /// Whether `module` is targeted.
    ///
    /// # Errors
    /// If `layers_pattern` is no regular expression.
    pub fn contains(&self, config: &JsonObject, module: &Module) -> Result<bool, ConfigError> {
        let path = module.path.as_str();
        let spellings = config.spellings(path);
        if spellings.iter().any(|path| self.is_inside_saved(path)) {
            return Ok(false);
        }
        if let Some(exclude) = &self.exclude
            && exclude.matches(config, "exclude_modules", path)?
        {
            return Ok(false);
        }
        match &self.include {
            Include::Nothing => Ok(false),
            Include::AllLinear => {
                let linear = matches!(
                    module.kind,
                    ModuleKind::Linear { .. }
                        | ModuleKind::Routed {
                            is_linear: true,
                            ..
                        }
                );
                Ok(linear && path != "lm_head")
            }
            Include::Pattern(NamePattern::Whole(regex)) => {
                is_match(config, "target_modules", regex, path)
            }
            Include::Pattern(NamePattern::Names(names)) => {
                if names.iter().any(|name| spellings.contains(name)) {
                    return Ok(true);
                }
                let named = names.iter().any(|name| is_named(config, path, name));
                Ok(named && self.layer_is_meant(config, path)?)
            }
        }
    }

    /// Whether `path` is, or lies below, a module named in `modules_to_save`.
    fn is_inside_saved(&self, path: &str) -> bool {
        self.modules_to_save.iter().any(|saved| {
            path.match_indices(saved.as_str()).any(|(start, _)| {
                let end = start + saved.len();
                (start == 0 || path.as_bytes()[start - 1] == b'.')
                    && (end == path.len() || path.as_bytes()[end] == b'.')
            })
        })
    }

    fn layer_is_meant(&self, config: &JsonObject, path: &str) -> Result<bool, ConfigError> {
        let Some(layers) = &self.layers else {
            return Ok(true);
        };
        let mut patterns = vec![r"\A.*?\.[^.]*\.(?P<idx>\d+)\.".to_owned()];
        if !self.layers_pattern.is_empty() {
            patterns = self
                .layers_pattern
                .iter()
                // Not grouped, as in PEFT: if the pattern has alternatives, only the last one is
                // followed by an index.
                .map(|pattern| format!(r"\A(?:(?:^|.*?\.){pattern}\.(?P<idx>\d+)\.)"))
                .collect();
        }
        for pattern in patterns {
            let regex = Regex::new(&pattern).map_err(|error| {
                config.refused(
                    "layers_pattern",
                    &format!("not a regular expression: {error}"),
                )
            })?;
            let found = regex.captures(path).map_err(|error| {
                let reason = format!("the regular expression fails on `{path}`: {error}");
                config.refused("layers_pattern", &reason)
            })?;
            if let Some(found) = found {
                let index = found.name("idx");
                let index = index.and_then(|digits| digits.as_str().parse().ok());
                return Ok(index.is_some_and(|index: usize| layers.contains(&index)));
            }
        }
        Ok(false)
    }
}
