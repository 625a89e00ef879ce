//! The tokenizer of a checkpoint: its files, which releases of Transformers from 4 on load.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::copy;
use crate::files::{self, write_file};
use crate::model::TOKENIZER_FILES;
use crate::prepare::PrepareError;

const CONFIG: &str = "tokenizer_config.json";

/// The name in Transformers 5 of a class that earlier releases know by another name only.
const NEWER_CLASS: &str = "TokenizersBackend";
const OLDER_CLASS: &str = "PreTrainedTokenizerFast";

/// Copies the tokenizer's files in the folder `tokenizer` into `made`, chat templates included.
///
/// # Errors
/// If one can't be copied.
pub fn copy_tokenizer(tokenizer: &Path, made: &Path) -> Result<(), PrepareError> {
    for name in TOKENIZER_FILES {
        copy(tokenizer, name, made)?;
    }
    name_class_as_before(&made.join(CONFIG)).map_err(|source| PrepareError::Write {
        path: made.join(CONFIG),
        source,
    })?;
    copy_templates(tokenizer, made)
}

/// Writes the older name of the class into the configuration at `path`. Both names mean the same to
/// Transformers 5; only the inputs that the class makes differ in earlier releases, so they're
/// named, too.
fn name_class_as_before(path: &Path) -> std::io::Result<()> {
    let Ok(text) = files::read(path) else {
        return Ok(());
    };
    let Ok(mut config) = serde_json::from_slice::<Value>(&text) else {
        return Ok(());
    };
    if config["tokenizer_class"] != NEWER_CLASS {
        return Ok(());
    }
    config["tokenizer_class"] = json!(OLDER_CLASS);
    if let Some(config) = config.as_object_mut() {
        let inputs = json!(["input_ids", "attention_mask"]);
        config.entry("model_input_names").or_insert(inputs);
    }
    write_file(path, format!("{config:#}\n").as_bytes())
}

/// Copies a tokenizer's additional chat templates.
fn copy_templates(tokenizer: &Path, made: &Path) -> Result<(), PrepareError> {
    const TEMPLATES: &str = "additional_chat_templates";
    let from = tokenizer.join(TEMPLATES);
    let failed = |source| PrepareError::Copy {
        path: from.clone(),
        source,
    };
    if !from.is_dir() {
        return Ok(());
    }
    let to = made.join(TEMPLATES);
    fs::create_dir(&to).map_err(failed)?;
    for entry in fs::read_dir(&from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        copy(&from, &entry.file_name().to_string_lossy(), &to)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_that_older_releases_lack_gets_the_name_that_they_know() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(CONFIG);
        let rewritten = |config: Value| -> Value {
            fs::write(&path, config.to_string()).unwrap();
            name_class_as_before(&path).unwrap();
            serde_json::from_slice(&fs::read(&path).unwrap()).unwrap()
        };
        let found = rewritten(json!({"tokenizer_class": "TokenizersBackend", "a": 1}));
        assert_eq!(
            found,
            json!({"tokenizer_class": "PreTrainedTokenizerFast", "a": 1,
                "model_input_names": ["input_ids", "attention_mask"]})
        );
        let other = json!({"tokenizer_class": "Qwen2Tokenizer"});
        assert_eq!(rewritten(other.clone()), other);
    }
}
