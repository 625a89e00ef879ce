//! Errors of tokenizers, with what to do about them.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a tokenizer can't be used.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum TokenizerError {
    #[error(
        "`{}` has no tokenizer of a supported kind (`tokenizer.json`; `tokenizer.model`; or `vocab.json` and \
         `merges.txt`); add a `tokenizer.json`, which `{}` writes if Transformers can load the folder's tokenizer",
        folder.display(),
        conversion(folder)
    )]
    Missing { folder: PathBuf },
    #[error(
        "`{}` isn't supported: {reason}; convert it to a `tokenizer.json`: {}",
        path.display(),
        conversion(path.parent().unwrap_or(path))
    )]
    Unsupported { path: PathBuf, reason: String },
    #[error(
        "`{}` names the tokenizer class `{class}`, which isn't supported, since Transformers rebuilds its \
         pipeline; to use its `tokenizer.json` unchanged, set `tokenizer_class` to `PreTrainedTokenizerFast` in \
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
    #[error("`{}` is not a tokenizer file: {message}", path.display())]
    FailedDownload {
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
