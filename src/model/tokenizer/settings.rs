//! A tokenizer's settings: `tokenizer_config.json`, and in older folders `special_tokens_map.json`
//! and `added_tokens.json`.
//!
//! Source: `PreTrainedTokenizerBase._from_pretrained` and `__init__`, `tokenization_utils_base.py`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::TokenizerError;
use super::files::object;
use crate::json::check::json_type;

/// The special tokens that every class has a name for, in the order in which they're added.
pub const NAMED: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

const EXTRA: &str = "extra_special_tokens";
/// The older name of `extra_special_tokens`.
const ADDITIONAL: &str = "additional_special_tokens";
const BY_NAME: &str = "model_specific_special_tokens";
const DECODER: &str = "added_tokens_decoder";

/// A special token, as written in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Special {
    /// Its text.
    Plain(String),
    /// Its text, and how it's matched.
    Token(AddedToken),
}

impl Special {
    /// Its text.
    pub fn content(&self) -> &str {
        match self {
            Self::Plain(content) => content,
            Self::Token(token) => &token.content,
        }
    }
}

/// The settings of a tokenizer.
#[derive(Debug)]
pub struct Settings {
    path: PathBuf,
    values: Map<String, Value>,
    /// Added tokens by the id in the file. The id only determines their order.
    pub added: BTreeMap<u32, AddedToken>,
    /// Added tokens by their text.
    by_content: HashMap<String, AddedToken>,
    /// The padding token in `tokenizer.json`: a special token, though nothing is padded here.
    pub padding: Option<String>,
}

/// An added token in `tokenizer.json`.
#[derive(Deserialize)]
struct StoredToken {
    id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

/// The parts of `tokenizer.json` that list tokens.
#[derive(Default, Deserialize)]
struct StoredTokens {
    #[serde(default)]
    added_tokens: Vec<StoredToken>,
    padding: Option<Padding>,
}

#[derive(Deserialize)]
struct Padding {
    pad_token: String,
}

impl Settings {
    /// Reads the settings in `folder`. `stored` has the bytes of its `tokenizer.json`, if there's
    /// one.
    ///
    /// # Errors
    /// If a file can't be read, or a token is neither a string nor a token object.
    pub fn read(
        folder: &Path,
        values: Map<String, Value>,
        stored: Option<(&Path, &[u8])>,
    ) -> Result<Self, TokenizerError> {
        let mut tokens = StoredTokens::default();
        if let Some((path, stored)) = stored {
            tokens = serde_json::from_slice(stored).map_err(|source| TokenizerError::Parse {
                path: path.to_owned(),
                source,
            })?;
        }
        let mut settings = Self {
            path: folder.join("tokenizer_config.json"),
            values,
            added: BTreeMap::new(),
            by_content: HashMap::new(),
            padding: tokens.padding.map(|padding| padding.pad_token),
        };
        if stored.is_some() {
            // With a stored post-processor, that decides which tokens are added.
            settings.values.shift_remove("add_bos_token");
            settings.values.shift_remove("add_eos_token");
        }
        if !is_true(settings.values.get(EXTRA))
            && let Some(additional) = settings.values.shift_remove(ADDITIONAL)
        {
            settings.values.insert(EXTRA.to_owned(), additional);
        }
        settings.take_named();
        match settings.values.get(DECODER).cloned() {
            Some(Value::Object(tokens)) => settings.read_decoder(&tokens)?,
            Some(other) => return Err(settings.wrong(DECODER, &other, "an object of tokens")),
            None => settings.read_older(folder, tokens.added_tokens)?,
        }
        Ok(settings)
    }

    /// Takes out the additional named tokens: `<name>_token` keys, and the entries of an object of
    /// tokens.
    fn take_named(&mut self) {
        let own = |key: &str, value: &Value| {
            key.ends_with("_token") && !NAMED.contains(&key) && value.is_string()
        };
        let keys = self.values.iter().filter(|(key, value)| own(key, value));
        let keys: Vec<String> = keys.map(|(key, _)| key.clone()).collect();
        let mut found = Map::new();
        for key in keys {
            if let Some(value) = self.values.shift_remove(&key) {
                found.insert(key, value);
            }
        }
        if let Some(Value::Object(extra)) = self.values.get(EXTRA).cloned() {
            self.values.shift_remove(EXTRA);
            found.extend(extra);
        }
        if !found.is_empty() {
            self.values.insert(BY_NAME.to_owned(), Value::Object(found));
        }
    }

    fn read_decoder(&mut self, tokens: &Map<String, Value>) -> Result<(), TokenizerError> {
        for (id, value) in tokens {
            let key = format!("{DECODER}.{id}");
            let id = id.parse();
            let (Ok(id), Value::Object(token)) = (id, value) else {
                return Err(self.wrong(&key, value, "a token by its id"));
            };
            let token = self.token(&key, token, None)?;
            self.add(id, token);
        }
        Ok(())
    }

    fn add(&mut self, id: u32, token: AddedToken) {
        self.by_content.insert(token.content.clone(), token.clone());
        self.added.insert(id, token);
    }

    /// Reads the added tokens of older folders, which have no `added_tokens_decoder`, from their
    /// other files.
    fn read_older(
        &mut self,
        folder: &Path,
        stored: Vec<StoredToken>,
    ) -> Result<(), TokenizerError> {
        let mut mapped = Vec::new();
        for (key, value) in object(&folder.join("special_tokens_map.json"))? {
            mapped.push(key.clone());
            let value = match value {
                Value::Object(mut token) if key != EXTRA => {
                    token.insert("special".to_owned(), Value::Bool(true));
                    token.insert("__type".to_owned(), Value::from("AddedToken"));
                    Value::Object(token)
                }
                Value::Array(tokens) if key == EXTRA => {
                    let mut all = match self.values.get(EXTRA) {
                        Some(Value::Array(existing)) => existing.clone(),
                        _ => Vec::new(),
                    };
                    all.extend(tokens);
                    Value::Array(all)
                }
                other => other,
            };
            self.values.insert(key, value);
        }
        if let Some(Value::Object(extra)) = self.values.get(EXTRA).cloned() {
            self.values.shift_remove(EXTRA);
            let named = self
                .values
                .entry(BY_NAME)
                .or_insert_with(|| Map::new().into());
            if let Value::Object(named) = named {
                named.extend(extra);
            }
        }
        let special = self.special_texts(&mapped);
        for (content, id) in object(&folder.join("added_tokens.json"))? {
            let Some(id) = id.as_u64().and_then(|id| u32::try_from(id).ok()) else {
                return Err(TokenizerError::Value {
                    path: folder.join("added_tokens.json"),
                    key: content,
                    found: json_type(&id).to_owned(),
                    expected: "an id",
                });
            };
            let is_special = special.contains(&content);
            self.add(id, AddedToken::from(content, is_special));
        }
        for StoredToken { id, token } in stored {
            self.add(id, token);
        }
        Ok(())
    }

    /// Texts of the special tokens that Transformers knows at this point: those of
    /// `tokenizer_config.json` that are plain strings, and those of `special_tokens_map.json`.
    fn special_texts(&self, mapped: &[String]) -> HashSet<String> {
        let named = NAMED.into_iter().filter_map(|key| {
            let value = self.values.get(key)?;
            let described = mapped.iter().any(|mapped| mapped == key);
            value.as_str().or_else(|| {
                let content = value.get("content").filter(|_| described);
                content.and_then(Value::as_str)
            })
        });
        let extra = self.values.get(EXTRA).and_then(Value::as_array);
        let extra = extra.into_iter().flatten().filter_map(Value::as_str);
        named.chain(extra).map(str::to_owned).collect()
    }

    /// The special token `key`, or the class's default if the configuration doesn't set it.
    ///
    /// # Errors
    /// If the value isn't a token.
    pub fn special(
        &self,
        key: &str,
        default: Option<&str>,
    ) -> Result<Option<Special>, TokenizerError> {
        let Some(value) = self.values.get(key) else {
            return Ok(default.map(|text| Special::Plain(text.to_owned())));
        };
        let Some(token) = self.any(key, value)? else {
            return Ok(None);
        };
        let known = self.by_content.get(token.content());
        Ok(Some(
            known.map_or(token, |known| Special::Token(known.clone())),
        ))
    }

    /// The additional named special tokens.
    ///
    /// # Errors
    /// If one isn't a token.
    pub fn own_names(&self) -> Result<Vec<(String, Special)>, TokenizerError> {
        let mut found = Vec::new();
        let mut push = |key: &str, value: &Value| -> Result<(), TokenizerError> {
            let token = self.any(key, value)?;
            found.extend(token.map(|token| (key.to_owned(), token)));
            Ok(())
        };
        for (key, value) in &self.values {
            let own = key.ends_with("_token") && !NAMED.contains(&key.as_str());
            if own && (value.is_string() || value.is_object()) {
                push(key, value)?;
            }
        }
        match self.values.get(BY_NAME) {
            Some(Value::Object(tokens)) => {
                for (key, value) in tokens {
                    push(key, value)?;
                }
            }
            None | Some(Value::Null) => {}
            Some(other) => return Err(self.wrong(BY_NAME, other, "an object of tokens")),
        }
        Ok(found)
    }

    /// The unnamed special tokens; `None` if there's no list of them.
    ///
    /// # Errors
    /// If one isn't a token.
    pub fn extra(&self) -> Result<Option<Vec<Special>>, TokenizerError> {
        let key = match self.values.contains_key(EXTRA) {
            true => EXTRA,
            false => ADDITIONAL,
        };
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(Vec::new())),
            Some(Value::Array(tokens)) => {
                let tokens = tokens.iter().map(|token| self.any(key, token));
                let tokens = tokens.collect::<Result<Vec<Option<Special>>, _>>()?;
                Ok(Some(tokens.into_iter().flatten().collect()))
            }
            Some(other) => Err(self.wrong(key, other, "a list of tokens")),
        }
    }

    /// Whether `key` exists, with any value.
    pub fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Whether `key` is true.
    pub fn flag(&self, key: &str) -> bool {
        is_true(self.values.get(key))
    }

    /// Whether `key` is true; `default` if it's absent or null.
    pub fn flag_or(&self, key: &str, default: bool) -> bool {
        match self.values.get(key) {
            None | Some(Value::Null) => default,
            value => is_true(value),
        }
    }

    fn any(&self, key: &str, value: &Value) -> Result<Option<Special>, TokenizerError> {
        match value {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(Special::Plain(text.clone()))),
            Value::Object(token) => {
                // Lists of older files don't give the type of an entry.
                let special = (!token.contains_key("__type")).then_some(true);
                let token = self.token(key, token, special)?;
                Ok(Some(Special::Token(token)))
            }
            other => Err(self.wrong(key, other, "a token")),
        }
    }

    fn token(
        &self,
        key: &str,
        value: &Map<String, Value>,
        special: Option<bool>,
    ) -> Result<AddedToken, TokenizerError> {
        let Some(content) = value.get("content").and_then(Value::as_str) else {
            let found = Value::Object(value.clone());
            return Err(self.wrong(key, &found, "a token with its `content`"));
        };
        let special = special.unwrap_or_else(|| is_true(value.get("special")));
        let token = AddedToken::from(content, special)
            .single_word(is_true(value.get("single_word")))
            .lstrip(is_true(value.get("lstrip")))
            .rstrip(is_true(value.get("rstrip")));
        Ok(match value.get("normalized") {
            None | Some(Value::Null) => token,
            normalized => token.normalized(is_true(normalized)),
        })
    }

    fn wrong(&self, key: &str, found: &Value, expected: &'static str) -> TokenizerError {
        TokenizerError::Value {
            path: self.path.clone(),
            key: key.to_owned(),
            found: json_type(found).to_owned(),
            expected,
        }
    }
}

/// Whether Python counts the value as true.
fn is_true(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => false,
        Some(Value::Bool(value)) => *value,
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(values)) => !values.is_empty(),
        Some(Value::Object(values)) => !values.is_empty(),
    }
}
