//! A base model or an adapter from the Hugging Face hub: `org/name[@revision]` becomes a folder in
//! the hub's own cache.
//!
//! What is fetched is what the program reads: `config.json`, the weights as safetensors (one file,
//! or an index and the shards that it names), and, where the repository has them, the tokenizer's
//! files and `generation_config.json`. The cache has the layout of Python's `huggingface_hub`
//! (`models--org--name/{blobs,refs,snapshots}`), so either program uses what the other has fetched.
//!
//! - A file that the cache holds under the revision's commit is never fetched again. Online, a warm
//!   cache costs one request, which asks for the commit; a revision that is itself a full commit
//!   hash costs none, unless the cache holds no tokenizer: the hub may have one, which what filled
//!   the cache had no use for.
//! - Offline no request is made, whatever the cache holds.
//! - `refs/<revision>` is written when everything is there, so a name never leads to half a model.
//!
//! | file           | its question                                               |
//! |----------------|------------------------------------------------------------|
//! | `id.rs`        | is this text a repository and a revision?                  |
//! | `settings.rs`  | which endpoint, cache and token does the environment name? |
//! | `cache.rs`     | what does the cache hold, and where?                       |
//! | `http.rs`      | how is one request made, and who gets the token?           |
//! | `location.rs`  | where does a redirect lead, and is it the same server?     |
//! | `refusal.rs`   | which error is a status that isn't a success?              |
//! | `remote.rs`    | what does the hub have, and what does it say about a file? |
//! | `download.rs`  | how does one file get into the cache?                      |
//! | `incomplete.rs`| is a received file complete, and what was announced?       |
//! | `snapshot.rs`  | what does a commit have, and is it in the cache?           |
//! | `shards.rs`    | which files does `model.safetensors.index.json` name?      |
//! | `error.rs`     | what went wrong, and what should be done about it?         |
//!
//! Sources: `huggingface_hub`, `file_download.py`, `constants.py` and `utils/_http.py`; its guide
//! «Understand caching».

mod cache;
mod download;
mod error;
mod http;
mod id;
mod incomplete;
mod location;
mod refusal;
mod remote;
mod settings;
mod shards;
mod snapshot;

use std::path::PathBuf;

pub use error::HubError;
pub use id::HubId;
pub use settings::HubSettings;

use super::tokenizer::{TOKENIZER_FILES, has_tokenizer};
pub(crate) use snapshot::Snapshot;

pub(crate) const CONFIG: &str = "config.json";
pub(crate) const WEIGHTS: &str = "model.safetensors";
pub(crate) const WEIGHTS_INDEX: &str = "model.safetensors.index.json";
/// Fetched where the repository has it.
const GENERATION: &str = "generation_config.json";

/// The configuration that older GPTQ checkpoints have beside `config.json`.
const OLD_GPTQ: &str = "quantize_config.json";

/// How far the download of one file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownloadProgress {
    /// The file's path in the repository.
    pub file: String,
    /// Bytes received so far.
    pub done_bytes: u64,
    /// The file's size; 0 if the hub doesn't say.
    pub total_bytes: u64,
}

/// Makes sure that the cache holds the model and returns its snapshot folder.
///
/// `progress` is called on this thread, some ten times a second for the file that is being
/// downloaded, and once when it is complete. Files that the cache already holds aren't reported.
///
/// # Errors
/// Whatever keeps the model from being complete in the cache; every variant of [`HubError`] says
/// what to do about it.
pub fn fetch(
    id: &HubId,
    settings: &HubSettings,
    progress: &dyn Fn(DownloadProgress),
) -> Result<PathBuf, HubError> {
    complete(id, settings, progress, CONFIG, |snapshot| {
        model(id, snapshot)
    })
}

/// Has `take` complete a snapshot: offline, or under a commit's hash, that of the cache, else the
/// hub's. `first` is the file that's said to be missing where the cache doesn't know the revision.
pub(crate) fn complete<T>(
    id: &HubId,
    settings: &HubSettings,
    progress: &dyn Fn(DownloadProgress),
    first: &str,
    take: impl Fn(&Snapshot) -> Result<T, HubError>,
) -> Result<T, HubError> {
    if settings.offline {
        let snapshot = Snapshot::cached(id, settings)?;
        return take(&snapshot.ok_or_else(|| snapshot::missing(id, first))?);
    }
    if cache::is_commit_hash(id.revision())
        && let Some(snapshot) = Snapshot::cached(id, settings)?
        && has_tokenizer(&snapshot.folder())
        && let Ok(taken) = take(&snapshot)
    {
        return Ok(taken);
    }
    take(&Snapshot::online(id, settings, progress)?)
}

fn model(id: &HubId, snapshot: &Snapshot) -> Result<PathBuf, HubError> {
    let refusal = || HubError::NoSafetensors {
        repo: id.repo.clone(),
        revision: id.revision().to_owned(),
        found: other_weights(snapshot.files()),
    };
    if snapshot.is_online() && !snapshot.has(WEIGHTS) && !snapshot.has(WEIGHTS_INDEX) {
        return Err(refusal());
    }
    snapshot.require(CONFIG)?;
    // Prompts of ids need no tokenizer, so none is asked for.
    snapshot.require_present(TOKENIZER_FILES)?;
    snapshot.require_present([GENERATION, OLD_GPTQ])?;
    snapshot.require_weights(WEIGHTS, WEIGHTS_INDEX, refusal)?;
    snapshot.complete()
}

/// Names a weights file of another format, for the error that says what the repository has instead.
pub(crate) fn other_weights<'a>(mut files: impl Iterator<Item = &'a str>) -> String {
    files
        .find(|file| {
            [".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx"]
                .iter()
                .any(|end| file.ends_with(end))
        })
        .map_or_else(|| "no weights".to_owned(), |file| format!("`{file}`"))
}
