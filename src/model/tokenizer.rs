//! A base model's tokenizer, `tokenizer.json`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;
use tokenizers::Tokenizer;

/// A tokenizer that can't be used.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
pub enum TokenizerError {
    #[error(
        "`{}` has no `tokenizer.json`, which text is tokenized with; add the file (a slow tokenizer's \
         `save_pretrained` with `AutoTokenizer` writes it)",
        folder.display()
    )]
    Missing { folder: PathBuf },
    #[error("cannot use `{}`", path.display())]
    Tokenizer {
        path: PathBuf,
        #[source]
        source: tokenizers::Error,
    },
}

/// The part of `tokenizer.json` whose reader panics where it isn't JSON.
#[derive(Deserialize)]
struct Panicking {
    #[serde(rename = "decoder")]
    _decoder: Option<serde_json::Value>,
}

/// Reads the file, which has been seen to be JSON before `tokenizers` sees it.
fn read(path: &Path) -> Result<Tokenizer, tokenizers::Error> {
    let bytes = fs::read(path)?;
    serde_json::from_slice::<Panicking>(&bytes)?;
    Tokenizer::from_bytes(&bytes)
}

/// Text to token ids and back.
#[derive(Debug)]
pub struct TextTokenizer {
    path: PathBuf,
    tokenizer: Tokenizer,
}

impl TextTokenizer {
    /// The path of `folder/tokenizer.json`.
    ///
    /// # Errors
    /// If it's missing.
    pub fn find(folder: &Path) -> Result<PathBuf, TokenizerError> {
        let path = folder.join("tokenizer.json");
        match path.exists() {
            true => Ok(path),
            false => Err(TokenizerError::Missing {
                folder: folder.to_owned(),
            }),
        }
    }

    /// Opens `folder/tokenizer.json`.
    ///
    /// # Errors
    /// If it's missing or malformed.
    pub fn open(folder: &Path) -> Result<Self, TokenizerError> {
        let path = Self::find(folder)?;
        match read(&path) {
            Ok(tokenizer) => Ok(Self { path, tokenizer }),
            Err(source) => Err(TokenizerError::Tokenizer { path, source }),
        }
    }

    /// Token ids of `text`, with the special tokens that the tokenizer adds.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.tokenizer.encode(text, true);
        let encoding = encoding.map_err(|source| self.failed(source))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `ids`, without special tokens.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        self.tokenizer
            .decode(ids, true)
            .map_err(|source| self.failed(source))
    }

    fn failed(&self, source: tokenizers::Error) -> TokenizerError {
        TokenizerError::Tokenizer {
            path: self.path.clone(),
            source,
        }
    }
}
