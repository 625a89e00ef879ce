//! Configurations that other programs wrote (`config.json`, `adapter_config.json`), read key by
//! key.
//!
//! Needed keys are read; unknown keys are ignored. A key of the wrong type or out of range is an
//! error that names the file, the key, and what was expected.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;
use thiserror::Error;

use crate::files::{self, failed_download};

/// A configuration that can't be used.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum ConfigError {
    #[error("cannot read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },

    #[error("cannot parse `{}`", path.display())]
    Parse {
        path: PathBuf,
        source: serde_json::Error,
    },

    #[error("`{}` is not JSON: {message}", path.display())]
    NotJson {
        path: PathBuf,
        message: &'static str,
    },

    #[error("`{}`: key `{key}` is {found}, expected {expected}", path.display())]
    Value {
        path: PathBuf,
        key: String,
        found: String,
        expected: String,
    },

    #[error("`{}`: key `{key}` is missing, expected {expected}", path.display())]
    Missing {
        path: PathBuf,
        key: String,
        expected: String,
    },

    #[error("`{}`: {key} `{found}` is not supported; supported: {supported}", path.display())]
    Unsupported {
        path: PathBuf,
        key: &'static str,
        found: String,
        supported: String,
    },

    #[error(
        "`{}`: {key} `{found}` is not supported; did you mean {nearest}? `peft-bench {listing}` lists all",
        path.display()
    )]
    Unknown {
        path: PathBuf,
        key: &'static str,
        found: String,
        nearest: String,
        /// The command that lists what's supported.
        listing: &'static str,
    },

    #[error("`{}`: option `{key}` is not supported: {reason}", path.display())]
    Option {
        path: PathBuf,
        key: String,
        reason: String,
    },
}

/// A JSON object, and the path of its file for error messages.
#[derive(Debug, Clone)]
pub struct JsonObject {
    path: PathBuf,
    json: Value,
    /// Prefix of keys in messages, for nested objects: `rope_scaling.`
    scope: String,
    /// Pairs of prefixes: how a module path begins in the model, and how it begins in this file.
    spelling: Vec<[String; 2]>,
}

/// The largest size accepted. A larger number is a broken file, and products of it could overflow.
const LARGEST: usize = 1 << 30;

impl JsonObject {
    /// Reads the file `path`.
    ///
    /// # Errors
    /// If it can't be read, or isn't a JSON object.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let path = path.to_owned();
        let text = files::read(&path).map_err(|source| ConfigError::Read {
            path: path.clone(),
            source,
        })?;
        let parsed = serde_json::from_slice(&text);
        let json: Value = parsed.map_err(|source| match failed_download(&text) {
            Some(message) => ConfigError::NotJson {
                path: path.clone(),
                message,
            },
            None => ConfigError::Parse {
                path: path.clone(),
                source,
            },
        })?;
        let config = Self {
            path,
            json,
            scope: String::new(),
            spelling: Vec::new(),
        };
        if config.json.is_object() {
            Ok(config)
        } else {
            Err(config.wrong("", "a JSON object"))
        }
    }

    /// Wraps `json`; error messages name `path` as its file.
    ///
    /// # Panics
    /// If it isn't an object.
    pub fn of(path: &Path, json: Value) -> Self {
        assert!(json.is_object(), "{} is an object", path.display());
        Self {
            path: path.to_owned(),
            json,
            scope: String::new(),
            spelling: Vec::new(),
        }
    }

    /// The file that error messages name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A copy with `key` set to `value`.
    pub fn with(&self, key: &str, value: Value) -> Self {
        let mut changed = self.clone();
        changed.json[key] = value;
        changed
    }

    /// Sets the prefixes of module paths: `[in the model, in this file]`, where the two differ.
    pub fn spelled_as(self, spelling: Vec<[String; 2]>) -> Self {
        Self { spelling, ..self }
    }

    /// The model's module `path`, and the other spelling that this file may use for it.
    pub fn spellings(&self, path: &str) -> Vec<String> {
        let mut all = vec![path.to_owned()];
        all.extend(self.spelling.iter().find_map(|[own, other]| {
            let rest = path.strip_prefix(own.as_str())?;
            Some(format!("{other}{rest}"))
        }));
        all
    }

    /// The whole object.
    pub fn json(&self) -> &Value {
        &self.json
    }

    /// The value of `key`; `None` where it's absent or null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.json.get(key).filter(|value| !value.is_null())
    }

    /// The error for a value of `key` that isn't `expected`.
    pub fn wrong(&self, key: &str, expected: &str) -> ConfigError {
        let value = self.json.get(key).unwrap_or(&self.json);
        ConfigError::Value {
            path: self.path.clone(),
            key: format!("{}{key}", self.scope),
            found: shortened(value),
            expected: expected.to_owned(),
        }
    }

    /// The error for an absent `key`.
    pub fn missing(&self, key: &str, expected: &str) -> ConfigError {
        ConfigError::Missing {
            path: self.path.clone(),
            key: format!("{}{key}", self.scope),
            expected: expected.to_owned(),
        }
    }

    /// The error for an option that changes the arithmetic but isn't implemented.
    pub fn refused(&self, key: &str, reason: &str) -> ConfigError {
        ConfigError::Option {
            path: self.path.clone(),
            key: format!("{}{key}", self.scope),
            reason: reason.to_owned(),
        }
    }

    /// A positive whole number.
    ///
    /// # Errors
    /// If `key` is absent, or is something else.
    pub fn size(&self, key: &str) -> Result<usize, ConfigError> {
        self.optional_size(key)?
            .ok_or_else(|| self.missing(key, "a positive integer"))
    }

    /// A positive whole number, if `key` is there.
    ///
    /// # Errors
    /// If it is something else.
    pub fn optional_size(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        self.optional_size_up_to(key, LARGEST)
    }

    /// A positive whole number of at most `largest`, if `key` is there: for sizes that are
    /// allocated before any tensor's shape has confirmed them.
    ///
    /// # Errors
    /// If it is something else.
    pub fn optional_size_up_to(
        &self,
        key: &str,
        largest: usize,
    ) -> Result<Option<usize>, ConfigError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_u64() {
            Some(number) if (1..=largest as u64).contains(&number) => Ok(Some(number as usize)),
            _ => Err(self.wrong(key, &format!("a positive integer (at most {largest})"))),
        }
    }

    /// A positive whole number of at most `largest`.
    ///
    /// # Errors
    /// If `key` is absent, or is something else.
    pub fn size_up_to(&self, key: &str, largest: usize) -> Result<usize, ConfigError> {
        self.optional_size_up_to(key, largest)?
            .ok_or_else(|| self.missing(key, "a positive integer"))
    }

    /// A finite number, if `key` is there.
    ///
    /// # Errors
    /// If it is something else.
    pub fn optional_number(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        value
            .as_f64()
            .map(Some)
            .ok_or_else(|| self.wrong(key, "a number"))
    }

    /// A number that must be there.
    ///
    /// # Errors
    /// If `key` is absent, or is something else.
    pub fn number(&self, key: &str) -> Result<f64, ConfigError> {
        self.optional_number(key)?
            .ok_or_else(|| self.missing(key, "a number"))
    }

    /// `true` or `false`, else `default` where `key` is absent.
    ///
    /// # Errors
    /// If it is something else.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool, ConfigError> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| self.wrong(key, "`true` or `false`")),
        }
    }

    /// A string, if `key` is there.
    ///
    /// # Errors
    /// If it is something else.
    pub fn optional_text(&self, key: &str) -> Result<Option<&str>, ConfigError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => value
                .as_str()
                .map(Some)
                .ok_or_else(|| self.wrong(key, "a string")),
        }
    }

    /// A list of strings, if `key` is there.
    ///
    /// # Errors
    /// If it is something else.
    pub fn optional_texts(&self, key: &str) -> Result<Option<Vec<String>>, ConfigError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => serde_json::from_value(value.clone())
                .map(Some)
                .map_err(|_| self.wrong(key, "a list of strings")),
        }
    }

    /// A nested object, if `key` is there.
    ///
    /// # Errors
    /// If it is something else.
    pub fn optional_object(&self, key: &str) -> Result<Option<Self>, ConfigError> {
        match self.get(key) {
            None => Ok(None),
            Some(value @ Value::Object(_)) => Ok(Some(Self {
                path: self.path.clone(),
                json: value.clone(),
                scope: format!("{}{key}.", self.scope),
                spelling: self.spelling.clone(),
            })),
            Some(_) => Err(self.wrong(key, "an object")),
        }
    }
}

fn shortened(value: &Value) -> String {
    const LONGEST: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        None => format!("`{text}`"),
        Some((end, _)) => format!("`{}…`", &text[..end]),
    }
}
