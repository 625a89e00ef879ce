//! Tokenizers: text to token ids and back, as Transformers' `AutoTokenizer.from_pretrained(folder)`
//! does it.
//!
//! ```text
//! tokenizer.json                  unchanged, or its vocabulary in the class's own pipeline
//! tokenizer.model                 SentencePiece's pieces
//! vocab.json, merges.txt          a byte-level vocabulary and its merges
//! tokenizer_config.json, …        the class, added tokens, tokens put before and after the text
//! ```
//!
//! Padding and truncation in `tokenizer.json` are for training and are ignored.

mod class;
mod error;
mod files;
mod guard;
mod mistral;
mod pipeline;
mod sentencepiece;
mod settings;
mod special;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tokenizers::{ModelWrapper, Tokenizer};

pub use error::TokenizerError;
pub use files::{TOKENIZER_FILES, has_tokenizer};

use class::Class;
use files::{Vocabulary, bytes, object};
use guard::guarded;
use pipeline::{Words, build};
use sentencepiece::Model;
use settings::Settings;
use special::Specials;

use crate::files::read_to_string;

/// A tokenizer, which encodes text as token ids and decodes them.
#[derive(Debug)]
pub struct TextTokenizer {
    path: PathBuf,
    tokenizer: Tokenizer,
    /// Whether decoding removes spaces before punctuation.
    cleans_up: bool,
}

impl TextTokenizer {
    /// Opens the tokenizer in `folder`.
    ///
    /// # Errors
    /// If there's none, it's malformed, or Transformers would load it in a way that isn't supported
    /// here.
    pub fn open(folder: &Path) -> Result<Self, TokenizerError> {
        let values = object(&folder.join("tokenizer_config.json"))?;
        let config = object(&folder.join("config.json"))?;
        let stored = folder.join("tokenizer.json");
        let stored = match stored.is_file() {
            true => Some((bytes(&stored)?, stored)),
            false => None,
        };
        let stored = stored
            .as_ref()
            .map(|(bytes, path)| (path.as_path(), bytes.as_slice()));
        let mut class = Class::of(folder, &values, &config, stored.map(|(_, bytes)| bytes))?;
        let vocabulary = Vocabulary::find(folder, class.is_byte_level())?;
        if let Vocabulary::Merges { .. } = vocabulary
            && !class.is_byte_level()
        {
            class = Class::declared(folder, &values)?;
        }
        let settings = Settings::read(folder, values, stored)?;
        let path = vocabulary.path().to_owned();
        let failed = |source| TokenizerError::Tokenizer {
            path: path.clone(),
            source,
        };
        let unsupported = |reason: &str| TokenizerError::Unsupported {
            path: path.clone(),
            reason: reason.to_owned(),
        };
        let (mut tokenizer, specials) = match (&vocabulary, stored) {
            (Vocabulary::Json(_), Some((_, stored))) => {
                let specials = Specials::new(class, &settings, None)?;
                let tokenizer = guarded(|| match class {
                    Class::AsStored => as_stored(stored),
                    _ => rebuilt(class, &settings, &specials, stored),
                });
                (tokenizer.map_err(failed)?, specials)
            }
            (Vocabulary::SentencePiece(path), _) => {
                if class.is_byte_level() {
                    return Err(unsupported("its class needs `vocab.json` and `merges.txt`"));
                }
                let model = Model::read(path)?;
                let specials = Specials::new(class, &settings, Some(&model))?;
                let parts = guarded(|| match class {
                    Class::AsStored => model.parts(
                        &settings.added,
                        !settings.has("legacy") || settings.flag("legacy"),
                    ),
                    _ => {
                        let (vocab, merges) = model.bpe();
                        let words = Words { vocab, merges };
                        Ok(build(class, &settings, words, specials.unknown()))
                    }
                });
                let tokenizer = parts.and_then(|parts| guarded(|| assembled(parts, Value::Null)));
                (tokenizer.map_err(failed)?, specials)
            }
            (Vocabulary::Merges { vocab, merges }, _) => {
                if !class.is_byte_level() {
                    return Err(unsupported(
                        "its class doesn't use `vocab.json` and `merges.txt` (`tokenizer_class` in \
                         `tokenizer_config.json` may name one that does, such as `GPT2Tokenizer` or `Qwen2Tokenizer`)",
                    ));
                }
                let words = Words {
                    vocab: files::json(vocab)?,
                    merges: merge_lines(merges)?,
                };
                let specials = Specials::new(class, &settings, None)?;
                let parts = build(class, &settings, words, specials.unknown());
                let tokenizer = guarded(|| assembled(parts, Value::Null));
                (tokenizer.map_err(failed)?, specials)
            }
            (Vocabulary::Json(_), None) => unreachable!("the file was read before"),
        };
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(failed)?;
        tokenizer.set_encode_special_tokens(settings.flag("split_special_tokens"));
        let completed = guarded(|| {
            specials.add(class, &settings, &mut tokenizer)?;
            match settings.flag("fix_mistral_regex") {
                true => mistral::fix(&mut tokenizer, &config),
                false => Ok(()),
            }
        });
        completed.map_err(failed)?;
        // With byte-level BPE that would remove real spaces.
        let is_bpe = matches!(tokenizer.get_model(), ModelWrapper::BPE(_));
        let forced = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output";
        let cleans_up =
            settings.flag("clean_up_tokenization_spaces") && (!is_bpe || settings.flag(forced));
        Ok(Self {
            path,
            tokenizer,
            cleans_up,
        })
    }

    /// Encodes `text`, with the special tokens that the tokenizer adds.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = guarded(|| self.tokenizer.encode(text, true));
        let encoding = encoding.map_err(|source| self.failed(source))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Decodes `ids`, skipping special tokens.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        let text = guarded(|| self.tokenizer.decode(ids, true));
        let text = text.map_err(|source| self.failed(source))?;
        Ok(match self.cleans_up {
            true => cleaned_up(text),
            false => text,
        })
    }

    /// Whether it encodes and decodes every text as `other` does.
    pub fn is_like(&self, other: &Self) -> bool {
        let text = |one: &Self| one.tokenizer.to_string(false).ok();
        let split = |one: &Self| one.tokenizer.get_encode_special_tokens();
        self.cleans_up == other.cleans_up
            && split(self) == split(other)
            && text(self) == text(other)
    }

    fn failed(&self, source: tokenizers::Error) -> TokenizerError {
        TokenizerError::Tokenizer {
            path: self.path.clone(),
            source,
        }
    }
}

/// Uses `tokenizer.json` unchanged.
fn as_stored(bytes: &[u8]) -> tokenizers::Result<Tokenizer> {
    guard::check(bytes)?;
    Tokenizer::from_bytes(bytes)
}

/// Rebuilds the tokenizer as `class` does: its own pipeline, with the vocabulary and post-processor
/// of `tokenizer.json`.
fn rebuilt(
    class: Class,
    settings: &Settings,
    specials: &Specials,
    bytes: &[u8],
) -> tokenizers::Result<Tokenizer> {
    let mut stored: Value = serde_json::from_slice(bytes)?;
    let words = Words::of_model(&stored["model"]);
    let post_processor = stored["post_processor"].take();
    let parts = build(class, settings, words, specials.unknown());
    assembled(parts, post_processor)
}

/// Builds a tokenizer from `parts`, without added tokens.
fn assembled(
    mut parts: Map<String, Value>,
    post_processor: Value,
) -> tokenizers::Result<Tokenizer> {
    parts.insert("version".to_owned(), json!("1.0"));
    parts.insert("added_tokens".to_owned(), json!([]));
    parts.insert("post_processor".to_owned(), post_processor);
    let bytes = serde_json::to_vec(&parts)?;
    guard::check(&bytes)?;
    Tokenizer::from_bytes(bytes)
}

/// Reads the pairs in `merges.txt`: two tokens per line, after a line with the version.
fn merge_lines(path: &Path) -> Result<Value, TokenizerError> {
    let text = read_to_string(path).map_err(|source| TokenizerError::Read {
        path: path.to_owned(),
        source,
    })?;
    let mut merges = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.starts_with("#version") {
            continue;
        }
        let pair: Vec<&str> = line.split(' ').collect();
        if pair.len() != 2 {
            return Err(TokenizerError::Value {
                path: path.to_owned(),
                key: format!("line {}", number + 1),
                found: format!("{} tokens", pair.len()),
                expected: "two tokens with a space between them",
            });
        }
        merges.push(json!(pair));
    }
    Ok(Value::Array(merges))
}

/// `clean_up_tokenization` of Transformers.
fn cleaned_up(text: String) -> String {
    const REPLACED: [(&str, &str); 10] = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    REPLACED
        .iter()
        .fold(text, |text, (from, to)| text.replace(from, to))
}
