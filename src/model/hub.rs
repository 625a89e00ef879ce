//! A base model from the Hugging Face hub: `org/name[@revision]` becomes a folder in the hub's own cache.
//!
//! What is fetched is what the program reads: `config.json`, `tokenizer.json`, the weights as safetensors (one file,
//! or an index and the shards that it names), and a few small files where the repository has them. Requests go
//! through the `hf-hub` crate. The cache has the layout of Python's `huggingface_hub`
//! (`models--org--name/{blobs,refs,snapshots}`), so either program uses what the other has fetched.
//!
//! - A file that the cache holds under the revision's commit is never fetched again. Online, a warm cache costs one
//!   request, which asks for the commit; a revision that is itself a full commit hash costs none.
//! - Offline no request is made, whatever the cache holds.
//! - `refs/<revision>` is written when everything is there, so a name never leads to half a model.
//!
//! | file           | its question                                               |
//! |----------------|------------------------------------------------------------|
//! | `id.rs`        | is this text a repository and a revision?                  |
//! | `settings.rs`  | which endpoint, cache and token does the environment name? |
//! | `cache.rs`     | what does the cache hold, and is it what the hub has?      |
//! | `remote.rs`    | what does the hub answer?                                  |
//! | `shards.rs`    | which files does `model.safetensors.index.json` name?      |
//! | `error.rs`     | what went wrong, and what should be done about it?         |
//!
//! Sources: `huggingface_hub`, `file_download.py`, `constants.py` and `utils/_http.py`; its guide «Understand caching».

mod cache;
mod error;
mod id;
mod remote;
mod settings;
mod shards;

use std::{collections::BTreeSet, path::PathBuf};

pub use error::HubError;
pub use id::HubId;
pub use settings::HubSettings;

use cache::RepoCache;
use remote::{Listing, Remote};

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const WEIGHTS: &str = "model.safetensors";
const WEIGHTS_INDEX: &str = "model.safetensors.index.json";
/// Fetched where the repository has them.
const OPTIONAL: [&str; 4] = [
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "tokenizer.model",
];

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
/// `progress` is called on this thread, some ten times a second for the file that is being downloaded, and once when
/// it is complete. Files that the cache already holds aren't reported.
///
/// # Errors
/// Whatever keeps the model from being complete in the cache; every variant of [`HubError`] says what to do about it.
pub fn fetch(
    id: &HubId,
    settings: &HubSettings,
    progress: &dyn Fn(DownloadProgress),
) -> Result<PathBuf, HubError> {
    let cache = RepoCache::new(&settings.cache_dir, &id.repo);
    if settings.offline {
        return from_cache(id, &cache);
    }
    if cache::is_commit_hash(id.revision())
        && let Ok(folder) = from_cache(id, &cache)
    {
        return Ok(folder);
    }
    from_hub(id, settings, &cache, progress)
}

/// The snapshot folder, if the cache holds all that [`fetch`] needs.
fn from_cache(id: &HubId, cache: &RepoCache) -> Result<PathBuf, HubError> {
    let missing = |file: &str| HubError::Offline {
        repo: id.repo.clone(),
        revision: id.revision().to_owned(),
        file: file.to_owned(),
    };

    let commit = cache
        .commit(id.revision())?
        .ok_or_else(|| missing(CONFIG))?;
    let require = |file: &str| {
        if cache.holds(&commit, file) {
            Ok(())
        } else {
            Err(missing(file))
        }
    };

    require(CONFIG)?;
    require(TOKENIZER)?;
    if !cache.holds(&commit, WEIGHTS) {
        if !cache.holds(&commit, WEIGHTS_INDEX) {
            return Err(missing(WEIGHTS));
        }
        for shard in shards::read(&id.repo, &cache.path(&commit, WEIGHTS_INDEX))? {
            require(&shard)?;
        }
    }
    Ok(cache.snapshot(&commit))
}

/// Asks the hub for the revision's commit and downloads what the cache lacks.
fn from_hub(
    id: &HubId,
    settings: &HubSettings,
    cache: &RepoCache,
    progress: &dyn Fn(DownloadProgress),
) -> Result<PathBuf, HubError> {
    let remote = Remote::connect(id, settings)?;
    let Listing { commit, files } = remote.listing()?;
    let require = |file: &str| -> Result<(), HubError> {
        if cache.holds(&commit, file) {
            return Ok(());
        }
        if !files.contains(file) {
            return Err(HubError::FileNotFound {
                repo: id.repo.clone(),
                revision: id.revision().to_owned(),
                file: file.to_owned(),
            });
        }
        cache.remove_dangling(&commit, file)?;
        let size = remote.download(&commit, file, progress)?;
        cache.verify(&commit, file, size)
    };

    if !files.contains(WEIGHTS) && !files.contains(WEIGHTS_INDEX) {
        return Err(HubError::NoSafetensors {
            repo: id.repo.clone(),
            revision: id.revision().to_owned(),
            found: other_weights(&files),
        });
    }
    require(CONFIG)?;
    require(TOKENIZER)?;
    for file in OPTIONAL.into_iter().filter(|file| files.contains(*file)) {
        require(file)?;
    }
    if files.contains(WEIGHTS) {
        require(WEIGHTS)?;
    } else {
        require(WEIGHTS_INDEX)?;
        for shard in shards::read(&id.repo, &cache.path(&commit, WEIGHTS_INDEX))? {
            require(&shard)?;
        }
    }
    cache.write_ref(id.revision(), &commit)?;
    Ok(cache.snapshot(&commit))
}

/// Names a weights file of another format, for the error that says what the repository has instead.
fn other_weights(files: &BTreeSet<String>) -> String {
    files
        .iter()
        .find(|file| {
            [".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx"]
                .iter()
                .any(|end| file.ends_with(end))
        })
        .map_or_else(|| "no weights".to_owned(), |file| format!("`{file}`"))
}
