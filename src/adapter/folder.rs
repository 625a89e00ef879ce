//! Finds an adapter's weights in its folder, or the evidence that it was trained and they are
//! missing.
//!
//! An adapter is drawn fresh only if nothing shows that it was trained. Otherwise the base alone
//! would be measured under the adapter's name.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::AdapterError;
use crate::advice::{convert_adapter, shell_word};
use crate::files::failed_download;
use crate::json::{ConfigError, JsonObject};
use crate::weights::TensorStore;

/// The configuration's file name.
pub const CONFIG: &str = "adapter_config.json";
/// The weights' file name.
pub const WEIGHTS: &str = "adapter_model.safetensors";
/// Present in place of [`WEIGHTS`] if the weights are split into shards.
pub const INDEX: &str = "adapter_model.safetensors.index.json";
/// The weights' file name before PEFT wrote safetensors.
const PICKLE: &str = "adapter_model.bin";

/// Endings of weight files' names, in lower case.
const WEIGHT_ENDINGS: [&str; 8] = [
    ".safetensors",
    ".safetensors.index.json",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".npz",
    ".gguf",
];
/// Beginnings of the names of files that trainers write next to the weights.
const TRAINER_FILES: [&str; 5] = [
    "training_args",
    "optimizer",
    "scheduler",
    "rng_state",
    "scaler",
];
/// Keys that `mlx_lm.lora` writes into the configuration.
const MLX_KEYS: [&str; 3] = ["fine_tune_type", "lora_parameters", "lora_layers"];
/// A Git LFS pointer is no larger than this, in bytes.
const LARGEST_POINTER: u64 = 1024;
/// How many file names a message lists at most.
const MOST_LISTED: usize = 8;

/// Why a folder can't be used as an adapter.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum FolderError {
    #[error(
        "`{}` is a pickle file, which can run code when it's read: convert it to `{WEIGHTS}` with {command}",
        path.display()
    )]
    Pickle { path: PathBuf, command: String },

    #[error(
        "`{}` has no weights of a PEFT adapter: looked for `{WEIGHTS}` and `{INDEX}`, {found}; it was trained, since \
         {evidence}: {advice}; `--fresh` draws new values instead",
        folder.display()
    )]
    Absent {
        folder: PathBuf,
        found: String,
        evidence: String,
        advice: String,
    },

    #[error(
        "`{}` is an MLX adapter, and only PEFT's are supported: {command} merges it into its base, and the resulting checkpoint can be measured",
        folder.display()
    )]
    Mlx { folder: PathBuf, command: String },

    #[error("`{}` can't be used: {message}", path.display())]
    NotWeights { path: PathBuf, message: String },
}

/// Where an adapter's values come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ValuesFrom {
    /// From its weights; drawn fresh if nothing shows that it was trained.
    #[default]
    AsFound,
    /// From its weights, which must exist.
    Trained,
    /// Drawn fresh, even if there are weights.
    Fresh,
}

/// Opens the weights of the adapter in `folder`; `None` if it's to be drawn fresh.
///
/// # Errors
/// If it was trained and its weights aren't there, or they can't be read.
pub fn open(
    folder: &Path,
    config: &JsonObject,
    values: ValuesFrom,
) -> Result<Option<TensorStore>, AdapterError> {
    refuse_mlx(folder, config)?;
    if values == ValuesFrom::Fresh {
        return Ok(None);
    }
    let is_there = |name: &str| folder.join(name).symlink_metadata().is_ok();
    let store = if is_there(WEIGHTS) {
        refuse_dangling(&folder.join(WEIGHTS))?;
        TensorStore::open_file(&folder.join(WEIGHTS))?
    } else if is_there(INDEX) {
        refuse_dangling(&folder.join(INDEX))?;
        TensorStore::open_shards(&folder.join(INDEX))?
    } else if is_there(PICKLE) {
        return Err(pickle(folder).into());
    } else {
        return match evidence(folder, config, values)? {
            Some(evidence) => Err(absent(folder, evidence).into()),
            None => Ok(None),
        };
    };
    store.refuse_empty("adapter")?;
    Ok(Some(store))
}

/// Whether `folder` has a file with one of PEFT's names for weights, readable or not.
pub fn has_weights(folder: &Path) -> bool {
    let is_there = |name: &str| folder.join(name).symlink_metadata().is_ok();
    [WEIGHTS, INDEX, PICKLE].into_iter().any(is_there)
}

/// The files that an adapter is read from. Includes absent ones that would change the adapter if
/// they appeared.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let shard =
        |name: &String| name.starts_with("adapter_model-") && name.ends_with(".safetensors");
    let own = [CONFIG, WEIGHTS, INDEX].map(str::to_owned);
    let shards = names(folder).into_iter().filter(shard);
    own.into_iter()
        .chain(shards)
        .map(|name| folder.join(name))
        .collect()
}

/// Names of the files in `folder`, sorted; empty if it can't be read.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn looks_like_weights(name: &str) -> bool {
    let name = name.to_lowercase();
    WEIGHT_ENDINGS.iter().any(|end| name.ends_with(end))
}

/// What shows that the adapter was trained, if anything.
fn evidence(
    folder: &Path,
    config: &JsonObject,
    values: ValuesFrom,
) -> Result<Option<String>, ConfigError> {
    if values == ValuesFrom::Trained {
        return Ok(Some("`--trained` says so".to_owned()));
    }
    if config.flag("inference_mode", false)? {
        return Ok(Some(format!("`{CONFIG}` has `inference_mode: true`")));
    }
    let mut files = names(folder).into_iter();
    let found = files.find(|name| looks_like_weights(name) && !folder.join(name).is_dir());
    Ok(found.map(|name| format!("`{name}` looks like weights")))
}

fn absent(folder: &Path, evidence: String) -> FolderError {
    let files: Vec<String> = names(folder)
        .into_iter()
        .filter(|name| name != CONFIG)
        .collect();
    FolderError::Absent {
        folder: folder.to_owned(),
        found: match files.is_empty() {
            true => "there's nothing else in it".to_owned(),
            false => format!("it has {}", listed(&files)),
        },
        evidence,
        advice: advice(folder, &files),
    }
}

/// Advice for missing weights, depending on the `files` in the folder.
fn advice(folder: &Path, files: &[String]) -> String {
    let path = |name: &String| shell_word(&folder.join(name));
    let ends = |end: &'static str| move |name: &&String| name.to_lowercase().ends_with(end);
    let is_state = |name: &&String| TRAINER_FILES.iter().any(|start| name.starts_with(start));
    let is_pointer = |name: &&String| pointer(&folder.join(name));
    let own = || files.iter().filter(|name| !is_state(name));
    let below = |name: &&String| has_weights(&folder.join(name));
    let target = shell_word(&folder.join(WEIGHTS));
    if own().any(|name| is_pointer(&name)) {
        let folder = shell_word(folder);
        format!("`git -C {folder} lfs pull` fetches the files of its Git LFS pointers")
    } else if let Some(name) = own().find(ends(".safetensors")) {
        let path = path(name);
        format!("if `{name}` has them under PEFT's keys, `mv {path} {target}`")
    } else if let Some(name) = files.iter().rfind(below) {
        format!("`{}` has weights: name that folder", path(name))
    } else if let Some(name) = own().find(ends(".gguf")) {
        format!(
            "`{name}` is an adapter in llama.cpp's format: get the `{WEIGHTS}` that it was made from"
        )
    } else if let Some(name) = own().find(|name| looks_like_weights(name)) {
        format!(
            "write the tensors of `{name}` to `{target}` under PEFT's keys, as its `save_pretrained` does"
        )
    } else {
        format!("copy or download `{WEIGHTS}` into the folder")
    }
}

fn pickle(folder: &Path) -> FolderError {
    let path = folder.join(PICKLE);
    match pointer(&path) {
        true => FolderError::NotWeights {
            message: format!(
                "it's a Git LFS pointer, `git -C {} lfs pull` fetches the file",
                shell_word(folder)
            ),
            path,
        },
        false => FolderError::Pickle {
            command: format!("`{}`", convert_adapter(folder)),
            path,
        },
    }
}

/// Whether the file is small and holds a Git LFS pointer or another stand-in for weights.
fn pointer(path: &Path) -> bool {
    let small =
        fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() <= LARGEST_POINTER);
    small
        && fs::read(path).is_ok_and(|bytes| !bytes.is_empty() && failed_download(&bytes).is_some())
}

/// Refuses a dangling link. In the hub's cache the blob may have been deleted.
fn refuse_dangling(path: &Path) -> Result<(), FolderError> {
    match fs::read_link(path) {
        Ok(target) if !path.exists() => Err(FolderError::NotWeights {
            path: path.to_owned(),
            message: format!(
                "it's a link to `{}`, which isn't there; download the adapter again",
                target.display()
            ),
        }),
        _ => Ok(()),
    }
}

fn refuse_mlx(folder: &Path, config: &JsonObject) -> Result<(), FolderError> {
    let is_mlx = MLX_KEYS.iter().any(|key| config.get(key).is_some());
    if config.get("peft_type").is_some() || !is_mlx {
        return Ok(());
    }
    let base = config.get("model").and_then(|model| model.as_str());
    let adapter = shell_word(folder);
    Err(FolderError::Mlx {
        folder: folder.to_owned(),
        command: format!(
            "`mlx_lm.fuse --model {} --adapter-path {adapter} --save-path fused_model`",
            shell_word(Path::new(base.unwrap_or("BASE")))
        ),
    })
}

/// Lists the first [`MOST_LISTED`] names in backticks, and counts the rest.
pub fn listed(names: &[String]) -> String {
    let mut text = String::new();
    for (index, name) in names.iter().take(MOST_LISTED).enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        let _ = write!(text, "{comma}`{name}`");
    }
    if let Some(more) = names
        .len()
        .checked_sub(MOST_LISTED)
        .filter(|more| *more > 0)
    {
        let _ = write!(text, " and {more} more");
    }
    text
}
