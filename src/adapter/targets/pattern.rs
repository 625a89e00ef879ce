//! Names and regular expressions that select modules.
//!
//! Regular expressions are anchored like Python's `re.fullmatch` and `re.match`, and may have
//! look-around.

use fancy_regex::Regex;
use serde_json::Value;

use crate::json::{ConfigError, JsonObject};

/// A regular expression (a string in the configuration), or a list of names.
#[derive(Debug, Clone)]
pub enum NamePattern {
    /// Must match the whole path.
    Whole(Regex),
    /// The path is one of these, or ends with a dot and one of these.
    Names(Vec<String>),
}

impl NamePattern {
    /// Reads `key`, if it's present.
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

    /// Whether this value of `key` selects `path`.
    ///
    /// # Errors
    /// If a regular expression can't be matched.
    pub fn matches(&self, config: &JsonObject, key: &str, path: &str) -> Result<bool, ConfigError> {
        match self {
            Self::Whole(regex) => is_match(config, key, regex, path),
            Self::Names(names) => Ok(names.iter().any(|name| is_named(config, path, name))),
        }
    }
}

/// A regular expression for Python's `re.fullmatch`.
fn whole(config: &JsonObject, key: &str, pattern: &str) -> Result<Regex, ConfigError> {
    anchored(config, key, &format!(r"(?:{pattern})\z"))
}

/// A regular expression for Python's `re.match`.
fn anchored(config: &JsonObject, key: &str, pattern: &str) -> Result<Regex, ConfigError> {
    Regex::new(&format!(r"\A(?:{pattern})"))
        .map_err(|error| config.refused(key, &format!("not a regular expression: {error}")))
}

/// Whether `path` is `name`, or ends with a dot and `name`.
pub(super) fn ends_with_name(path: &str, name: &str) -> bool {
    path == name || path.strip_suffix(name).is_some_and(|p| p.ends_with('.'))
}

/// Whether one of the spellings of `path` in `config` is `name`, or ends with a dot and `name`.
pub(super) fn is_named(config: &JsonObject, path: &str, name: &str) -> bool {
    let spellings = config.spellings(path);
    spellings.iter().any(|path| ends_with_name(path, name))
}

/// Whether `regex` matches one of the spellings of `path` in `config`.
///
/// # Errors
/// If matching exceeds the engine's backtracking limit. Taken for no match, it would silently leave
/// modules out.
pub(super) fn is_match(
    config: &JsonObject,
    key: &str,
    regex: &Regex,
    path: &str,
) -> Result<bool, ConfigError> {
    for path in config.spellings(path) {
        let matches = regex.is_match(&path).map_err(|error| {
            config.refused(
                key,
                &format!("the regular expression fails on `{path}`: {error}"),
            )
        })?;
        if matches {
            return Ok(true);
        }
    }
    Ok(false)
}

/// `rank_pattern`, `alpha_pattern` and the like: the value of the first key, in file order, that
/// matches a path; if none does, of the key that equals the path.
#[derive(Debug, Clone, Default)]
pub struct ValuePattern {
    key: String,
    values: Vec<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    name: String,
    regex: Regex,
    value: f64,
}

impl ValuePattern {
    /// Reads the object `key`, if it's present. `allowed` checks its values, and `expected`
    /// describes them in errors. Its keys match a whole path, or the part after a dot (PEFT's
    /// `get_pattern_key`).
    ///
    /// # Errors
    /// If it isn't an object of such numbers, or a key is no regular expression.
    pub fn read(
        config: &JsonObject,
        key: &str,
        expected: &str,
        allowed: impl Fn(f64) -> bool,
    ) -> Result<Self, ConfigError> {
        Self::read_as(
            |name| format!(r"(.*\.)?({name})$"),
            config,
            key,
            expected,
            allowed,
        )
    }

    /// Reads a pattern as C3A and FourierFT do: keys match only after a dot, and aren't grouped. So
    /// if a key has alternatives, the dot belongs to the first one, and the end of the path to the
    /// last.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_below(
        config: &JsonObject,
        key: &str,
        expected: &str,
        allowed: impl Fn(f64) -> bool,
    ) -> Result<Self, ConfigError> {
        Self::read_as(
            |name| format!(r".*\.{name}$"),
            config,
            key,
            expected,
            allowed,
        )
    }

    fn read_as(
        pattern: impl Fn(&str) -> String,
        config: &JsonObject,
        key: &str,
        expected: &str,
        allowed: impl Fn(f64) -> bool,
    ) -> Result<Self, ConfigError> {
        let Some(object) = config.optional_object(key)? else {
            return Ok(Self::default());
        };
        let mut all = Vec::new();
        for (name, value) in object.json().as_object().into_iter().flatten() {
            let regex = anchored(config, key, &pattern(name))?;
            let value = value
                .as_f64()
                .filter(|value| allowed(*value))
                .ok_or_else(|| object.wrong(name, expected))?;
            all.push(Entry {
                name: name.clone(),
                regex,
                value,
            });
        }
        Ok(Self {
            key: key.to_owned(),
            values: all,
        })
    }

    /// The value for `path`, if a key matches it.
    ///
    /// # Errors
    /// If a regular expression can't be matched.
    pub fn get(&self, config: &JsonObject, path: &str) -> Result<Option<f64>, ConfigError> {
        for entry in &self.values {
            if is_match(config, &self.key, &entry.regex, path)? {
                return Ok(Some(entry.value));
            }
        }
        let spellings = config.spellings(path);
        let named = self
            .values
            .iter()
            .find(|entry| spellings.contains(&entry.name));
        Ok(named.map(|entry| entry.value))
    }
}
