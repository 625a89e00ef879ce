//! Finds and reads the tokenizer files of a folder.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::TokenizerError;
use crate::files::{self, failed_download};

/// All files that belong to a tokenizer, including its chat template.
pub const TOKENIZER_FILES: [&str; 9] = [
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    SENTENCEPIECE,
    VOCAB,
    MERGES,
    "chat_template.jinja",
    "chat_template.json",
];

const TOKENIZER: &str = "tokenizer.json";
const SENTENCEPIECE: &str = "tokenizer.model";
const VOCAB: &str = "vocab.json";
const MERGES: &str = "merges.txt";

/// The file that contains the vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vocabulary {
    /// `tokenizer.json`
    Json(PathBuf),
    /// `tokenizer.model`
    SentencePiece(PathBuf),
    /// `vocab.json` and `merges.txt`
    Merges { vocab: PathBuf, merges: PathBuf },
}

impl Vocabulary {
    /// The vocabulary file in `folder`. If there are several, a class with a `byte_level`
    /// vocabulary uses `vocab.json`, and another class `tokenizer.model`.
    ///
    /// # Errors
    /// If there's none.
    pub fn find(folder: &Path, byte_level: bool) -> Result<Self, TokenizerError> {
        let file = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
        if let Some(path) = file(TOKENIZER) {
            return Ok(Self::Json(path));
        }
        let pair = || {
            Some(Self::Merges {
                vocab: file(VOCAB)?,
                merges: file(MERGES)?,
            })
        };
        let pieces = || file(SENTENCEPIECE).map(Self::SentencePiece);
        let found = match byte_level {
            true => pair().or_else(pieces),
            false => pieces().or_else(pair),
        };
        let other = || ["tekken.json", "tiktoken.model"].into_iter().find_map(file);
        match (found, other()) {
            (Some(found), _) => Ok(found),
            (None, Some(path)) => Err(TokenizerError::Unsupported {
                path,
                reason: "it's another program's vocabulary".to_owned(),
            }),
            (None, None) => Err(TokenizerError::Missing {
                folder: folder.to_owned(),
            }),
        }
    }

    /// The file, for error messages.
    pub fn path(&self) -> &Path {
        match self {
            Self::Json(path) | Self::SentencePiece(path) | Self::Merges { vocab: path, .. } => path,
        }
    }
}

/// Whether `folder` has a tokenizer, supported or not.
pub fn has_tokenizer(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).is_file();
    has(TOKENIZER) || has(SENTENCEPIECE) || (has(VOCAB) && has(MERGES))
}

/// Reads the JSON object in `path`; empty if there's no such file.
pub fn object(path: &Path) -> Result<Map<String, Value>, TokenizerError> {
    if !path.is_file() {
        return Ok(Map::new());
    }
    match json(path)? {
        Value::Object(object) => Ok(object),
        other => Err(TokenizerError::Value {
            path: path.to_owned(),
            key: String::new(),
            found: crate::json::check::json_type(&other).to_owned(),
            expected: "an object",
        }),
    }
}

/// Reads the JSON in `path`.
pub fn json(path: &Path) -> Result<Value, TokenizerError> {
    serde_json::from_slice(&bytes(path)?).map_err(|source| TokenizerError::Parse {
        path: path.to_owned(),
        source,
    })
}

/// Reads the bytes of `path`.
pub fn bytes(path: &Path) -> Result<Vec<u8>, TokenizerError> {
    let bytes = files::read(path).map_err(|source| TokenizerError::Read {
        path: path.to_owned(),
        source,
    })?;
    match failed_download(&bytes) {
        Some(message) => Err(TokenizerError::FailedDownload {
            path: path.to_owned(),
            message,
        }),
        None => Ok(bytes),
    }
}
