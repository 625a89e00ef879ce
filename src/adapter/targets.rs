//! Which modules an adapter targets: PEFT's rules (`tuners/tuners_utils.py`), in PEFT's order.
//!
//! Python's `re.fullmatch` and `re.match` are anchored here by hand; look-around is supported.

use fancy_regex::Regex;
use serde_json::Value;

use super::AdapterError;
pub use super::default_targets::{DefaultTargets, QUERY_VALUE};
use crate::arch::{Module, ModuleKind};
use crate::json_object::{ConfigError, JsonObject};

/// A string (a regular expression) or a list of names.
#[derive(Debug, Clone)]
pub enum NamePattern {
    /// Must match the whole path.
    Whole(Regex),
    /// The path is one of these, or ends with a dot and one of these.
    Names(Vec<String>),
}

impl NamePattern {
    /// Reads `key`, if it's there.
    ///
    /// # Errors
    /// If it's neither a string nor a list of strings, or no regular expression.
    pub fn read(config: &JsonObject, key: &str) -> Result<Option<Self>, ConfigError> {
        match config.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => whole(config, key, text).map(|r| Some(Self::Whole(r))),
            Some(_) => config
                .optional_texts(key)
                .map_err(|_| {
                    config.wrong(key, "a string (regular expression) or a list of strings")
                })
                .map(|names| names.map(Self::Names)),
        }
    }

    /// Whether `path` is meant by this value of `key`.
    ///
    /// # Errors
    /// If a regular expression can't be matched.
    pub fn matches(&self, config: &JsonObject, key: &str, path: &str) -> Result<bool, ConfigError> {
        match self {
            Self::Whole(regex) => is_match(config, key, regex, path),
            Self::Names(names) => Ok(names.iter().any(|name| ends_with_name(path, name))),
        }
    }
}

/// `re.fullmatch`
pub fn whole(config: &JsonObject, key: &str, pattern: &str) -> Result<Regex, ConfigError> {
    Regex::new(&format!(r"\A(?:{pattern})\z"))
        .map_err(|error| config.refused(key, &format!("not a regular expression: {error}")))
}

/// Whether `path` is `name`, or ends with a dot and `name`.
fn ends_with_name(path: &str, name: &str) -> bool {
    path == name || path.strip_suffix(name).is_some_and(|p| p.ends_with('.'))
}

/// A pattern that runs into the engine's backtracking limit is refused: taken for no match, it would
/// leave modules out without a word.
fn is_match(
    config: &JsonObject,
    key: &str,
    regex: &Regex,
    path: &str,
) -> Result<bool, ConfigError> {
    regex.is_match(path).map_err(|error| {
        config.refused(
            key,
            &format!("the regular expression fails on `{path}`: {error}"),
        )
    })
}

/// `rank_pattern`, `alpha_pattern`: the first key, in file order, that matches the path or ends it.
#[derive(Debug, Clone, Default)]
pub struct ValuePattern {
    key: String,
    values: Vec<(Regex, f64)>,
}

impl ValuePattern {
    /// Reads the object `key`, if it's there. Its values are positive and `allowed`, which `expected` puts
    /// in words.
    ///
    /// # Errors
    /// If it isn't an object of such numbers, or a key is no regular expression.
    pub fn read(
        config: &JsonObject,
        key: &str,
        expected: &str,
        allowed: impl Fn(f64) -> bool,
    ) -> Result<Self, ConfigError> {
        Self::read_after(r"(?:.*\.)?", config, key, expected, allowed)
    }

    /// The same for a method whose keys never match the whole path, only what follows a dot.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_below(
        config: &JsonObject,
        key: &str,
        expected: &str,
        allowed: impl Fn(f64) -> bool,
    ) -> Result<Self, ConfigError> {
        Self::read_after(r".*\.", config, key, expected, allowed)
    }

    fn read_after(
        before: &str,
        config: &JsonObject,
        key: &str,
        expected: &str,
        allowed: impl Fn(f64) -> bool,
    ) -> Result<Self, ConfigError> {
        let Some(object) = config.optional_object(key)? else {
            return Ok(Self::default());
        };
        let mut all = Vec::new();
        for (pattern, value) in object.json().as_object().into_iter().flatten() {
            let regex = whole(config, key, &format!(r"{before}(?:{pattern})"))?;
            let value = value
                .as_f64()
                .filter(|value| *value > 0.0 && allowed(*value))
                .ok_or_else(|| object.wrong(pattern, expected))?;
            all.push((regex, value));
        }
        Ok(Self {
            key: key.to_owned(),
            values: all,
        })
    }

    /// The value for `path`, if a key matches.
    ///
    /// # Errors
    /// If a regular expression can't be matched.
    pub fn get(&self, config: &JsonObject, path: &str) -> Result<Option<f64>, ConfigError> {
        for (regex, value) in &self.values {
            if is_match(config, &self.key, regex, path)? {
                return Ok(Some(*value));
            }
        }
        Ok(None)
    }
}

/// `target_modules`, `exclude_modules`, `layers_to_transform`, `layers_pattern`, `modules_to_save`.
#[derive(Debug, Clone)]
pub struct Targets {
    include: Include,
    exclude: Option<NamePattern>,
    layers: Option<Vec<usize>>,
    layers_pattern: Vec<String>,
    /// Whether they're a method's own, which PEFT writes into the configuration: some tables name modules that a family
    /// has no more.
    are_defaults: bool,
    /// Modules that are replaced as a whole: paths that end with one of these, dot or no dot.
    pub modules_to_save: Vec<String>,
}

#[derive(Debug, Clone)]
enum Include {
    AllLinear,
    Pattern(NamePattern),
    /// Null: only what other options add.
    Nothing,
}

impl Targets {
    /// Reads the options, with a method's table of defaults.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn with_defaults(
        config: &JsonObject,
        model_type: &str,
        defaults: DefaultTargets,
    ) -> Result<Self, ConfigError> {
        let found = defaults.iter().find(|(name, _)| *name == model_type);
        Self::read(config, model_type, found.map(|(_, names)| *names))
    }

    /// Reads the options; `defaults` are the names for this model type where `target_modules` is null.
    ///
    /// # Errors
    /// If an option has a wrong type or can't be combined with another, or if `target_modules` is null
    /// and the model type has no default.
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

    /// Whether `target_modules` is a list of someone's own, every name of which is to match.
    pub fn are_listed(&self) -> bool {
        !self.are_defaults && matches!(self.include, Include::Pattern(NamePattern::Names(_)))
    }

    /// Whether `target_modules` has a name that ends with one of `names`, or is a regular expression that matches one of
    /// them by itself.
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
        if self.is_inside_saved(path) {
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
                let linear = matches!(module.kind, ModuleKind::Linear { .. });
                Ok(linear && path != "lm_head")
            }
            Include::Pattern(NamePattern::Whole(regex)) => {
                is_match(config, "target_modules", regex, path)
            }
            Include::Pattern(NamePattern::Names(names)) => {
                if names.iter().any(|name| name == path) {
                    return Ok(true);
                }
                let named = names.iter().any(|name| ends_with_name(path, name));
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
        let mut patterns = vec![r"\A.*?\.[^.]*\.(\d+)\.".to_owned()];
        if !self.layers_pattern.is_empty() {
            patterns = self
                .layers_pattern
                .iter()
                .map(|pattern| format!(r"\A(?:.*?\.)?(?:{pattern})\.(\d+)\."))
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
                let index = found.get(1).and_then(|digits| digits.as_str().parse().ok());
                return Ok(index.is_some_and(|index: usize| layers.contains(&index)));
            }
        }
        Ok(false)
    }

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
                let inside = module.path.ends_with(entry.as_str())
                    || module
                        .path
                        .match_indices('.')
                        .any(|(end, _)| module.path[..end].ends_with(entry.as_str()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Stored;

    fn config(json: &str) -> JsonObject {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("adapter_config.json");
        std::fs::write(&path, json).unwrap();
        JsonObject::read(&path).unwrap()
    }

    fn modules() -> Vec<Module> {
        let mut all = Vec::new();
        for layer in 0..3 {
            for name in ["self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj"] {
                all.push(linear(&format!("model.layers.{layer}.{name}")));
            }
        }
        all.push(linear("lm_head"));
        all
    }

    fn linear(path: &str) -> Module {
        Module {
            path: path.to_owned(),
            source: path.to_owned(),
            kind: ModuleKind::Linear {
                tied: false,
                in_features: 2,
                out_features: 2,
                bias: false,
                stored: Stored::OutIn,
            },
        }
    }

    fn selected(json: &str) -> Vec<String> {
        let config = config(json);
        let targets = Targets::read(&config, "llama", Some(&["q_proj"])).unwrap();
        let selected = targets.select(&config, &modules()).unwrap();
        selected.into_iter().map(|module| module.path).collect()
    }

    #[test]
    fn a_list_matches_by_suffix_at_a_dot() {
        assert_eq!(selected(r#"{"target_modules": ["q_proj"]}"#).len(), 3);
        assert_eq!(selected(r#"{"target_modules": null}"#).len(), 3);
        let only = selected(r#"{"target_modules": ["1.self_attn.q_proj"]}"#);
        assert_eq!(only, ["model.layers.1.self_attn.q_proj"]);
    }

    #[test]
    fn a_string_must_match_the_whole_path() {
        assert_eq!(
            selected(r#"{"target_modules": ".*\\.(?!1\\.)\\d\\..*v_proj"}"#).len(),
            2
        );
        let config = config(r#"{"target_modules": "v_proj"}"#);
        let targets = Targets::read(&config, "llama", None).unwrap();
        let error = targets.select(&config, &modules()).unwrap_err().to_string();
        assert!(
            error.contains("matches no module") && error.contains("up_proj"),
            "{error}"
        );
    }

    #[test]
    fn all_linear_leaves_the_head_out() {
        assert_eq!(selected(r#"{"target_modules": "ALL-linear"}"#).len(), 9);
    }

    #[test]
    fn layers_are_filtered_but_not_for_exact_paths() {
        let json = r#"{"target_modules": ["v_proj", "model.layers.0.self_attn.q_proj"],
                       "layers_to_transform": [2]}"#;
        assert_eq!(
            selected(json),
            [
                "model.layers.0.self_attn.q_proj",
                "model.layers.2.self_attn.v_proj"
            ]
        );
        let json = r#"{"target_modules": ["v_proj"], "layers_to_transform": 1,
                       "layers_pattern": ["blocks", "layers"]}"#;
        assert_eq!(selected(json), ["model.layers.1.self_attn.v_proj"]);
    }

    #[test]
    fn a_misspelt_name_is_an_error_even_beside_a_good_one() {
        let config = config(r#"{"target_modules": ["q_proj", "w_proj"]}"#);
        let targets = Targets::read(&config, "llama", None).unwrap();
        let error = targets.select(&config, &modules()).unwrap_err().to_string();
        assert!(error.contains("w_proj"), "{error}");
    }

    #[test]
    fn a_methods_own_names_may_match_nothing() {
        let own = ["gone", "q_proj"];
        let asked = |names: &str| {
            let config = config(&format!(r#"{{"target_modules": {names}}}"#));
            let targets = Targets::read(&config, "mixtral", Some(&own)).unwrap();
            targets.select(&config, &modules()).is_ok()
        };
        assert!(asked("null") && asked(r#"["q_proj", "gone"]"#));
        assert!(!asked(r#"["gone", "k_proj"]"#));
    }

    #[test]
    fn patterns_take_the_first_key_that_matches() {
        let config =
            config(r#"{"rank_pattern": {"0.self_attn.q_proj": 3, "q_proj": 5, "_proj": 9}}"#);
        let ranks = ValuePattern::read(&config, "rank_pattern", "a rank", |_| true).unwrap();
        let rank = |path: &str| ranks.get(&config, path).unwrap();
        assert_eq!(rank("model.layers.0.self_attn.q_proj"), Some(3.0));
        assert_eq!(rank("model.layers.1.self_attn.q_proj"), Some(5.0));
        assert_eq!(rank("model.layers.1.self_attn.v_proj"), None);
    }
}
