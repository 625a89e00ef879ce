//! Errors of tokenizers, with what to do about them.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a tokenizer can't be used.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
pub enum TokenizerError {
    #[error(
        "`{}` has no tokenizer that's read here (`tokenizer.json`; `tokenizer.model`; or `vocab.json` and \
         `merges.txt`); add a `tokenizer.json`, which `{}` writes where Transformers can load what's there",
        folder.display(),
        conversion(folder)
    )]
    Missing { folder: PathBuf },
    #[error(
        "`{}` isn't read here: {reason}; make a `tokenizer.json` of it: {}",
        path.display(),
        conversion(path.parent().unwrap_or(path))
    )]
    Unread { path: PathBuf, reason: String },
    #[error(
        "`{}` names the tokenizer class `{class}`, which Transformers builds anew in a way that isn't known here; where \
         its `tokenizer.json` is to be used as it is, set `tokenizer_class` to `PreTrainedTokenizerFast` in \
         `tokenizer_config.json`",
        folder.display()
    )]
    Class { folder: PathBuf, class: String },
    #[error("`{}`: key `{key}` is {found}, expected {expected}", path.display())]
    Value {
        path: PathBuf,
        key: String,
        found: String,
        expected: &'static str,
    },
    #[error("`{}` is no part of a tokenizer: {message}", path.display())]
    StandIn {
        path: PathBuf,
        message: &'static str,
    },
    #[error("cannot read `{}`", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("cannot parse `{}`", path.display())]
    Parse {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("cannot use `{}`", path.display())]
    Tokenizer {
        path: PathBuf,
        #[source]
        source: tokenizers::Error,
    },
}

/// The command that writes a `tokenizer.json` into `folder`.
fn conversion(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "python -c \"from transformers import AutoTokenizer; \
         AutoTokenizer.from_pretrained('{folder}').save_pretrained('{folder}')\""
    )
}
