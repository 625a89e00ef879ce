//! What can go wrong between here and the hub. Each message ends with what to do about it.

use std::{error::Error, io, path::PathBuf};

use thiserror::Error;

/// Why a model couldn't be fetched.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HubError {
    /// The text names no repository.
    #[error("`{id}` is not a hub id, {reason}: expected `org/name` or `org/name@revision`")]
    Id {
        /// The text.
        id: String,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// The endpoint isn't an `http` or `https` URL.
    #[error("the hub's endpoint `{endpoint}` is not a URL: correct `HF_ENDPOINT`, or unset it")]
    Endpoint {
        /// The endpoint.
        endpoint: String,
        /// Why it can't be used.
        source: Box<dyn Error + Send + Sync>,
    },

    /// The token holds characters that no request can carry.
    #[error(
        "the hub token holds a blank or a character outside ASCII: correct `HF_TOKEN` or the token file"
    )]
    TokenMalformed,

    /// HTTP 401, and no token was sent. The hub doesn't tell a private repository from one that
    /// doesn't exist.
    #[error(
        "the hub asks for a token for `{repo}`: set `HF_TOKEN`, or check the name (for one that doesn't exist the \
         hub answers the same)"
    )]
    TokenMissing {
        /// `org/name`.
        repo: String,
    },

    /// HTTP 401, though a token was sent.
    #[error(
        "the hub refuses the token for `{repo}`: check `HF_TOKEN`, and that the token may read this repository"
    )]
    TokenRejected {
        /// `org/name`.
        repo: String,
    },

    /// The repository has a licence that must be accepted first.
    #[error(
        "`{repo}` is gated: accept its licence at {url} and set `HF_TOKEN` to a token of that account"
    )]
    Gated {
        /// `org/name`.
        repo: String,
        /// The page on which the licence is accepted.
        url: String,
    },

    /// HTTP 403 for another reason than a licence.
    #[error(
        "the hub forbids access to `{repo}`: give the token in `HF_TOKEN` the right to read it"
    )]
    Forbidden {
        /// `org/name`.
        repo: String,
    },

    /// There is no such repository.
    #[error("the hub has no model `{repo}`: check the name; for a private one, set `HF_TOKEN`")]
    RepoNotFound {
        /// `org/name`.
        repo: String,
    },

    /// The repository has no such revision.
    #[error("`{repo}` has no revision `{revision}`: see its branches and commits at {url}")]
    RevisionNotFound {
        /// `org/name`.
        repo: String,
        /// The branch, tag or commit asked for.
        revision: String,
        /// The page that lists them.
        url: String,
    },

    /// The revision lacks a file that is needed.
    #[error(
        "`{repo}` at `{revision}` has no `{file}`: choose a model that has it, or use a local folder"
    )]
    FileNotFound {
        /// `org/name`.
        repo: String,
        /// The branch, tag or commit asked for.
        revision: String,
        /// The file's path in the repository.
        file: String,
    },

    /// The revision has weights of another format only.
    #[error(
        "`{repo}` at `{revision}` has {found}, and no `model.safetensors`: safetensors are needed, so convert the \
         weights or choose a model that has them"
    )]
    NoSafetensors {
        /// `org/name`.
        repo: String,
        /// The branch, tag or commit asked for.
        revision: String,
        /// What it has instead.
        found: String,
    },

    /// The repository holds neither an adapter nor a model.
    #[error(
        "`{repo}` at `{revision}` has neither an `adapter_config.json` nor a model in safetensors: {hint}"
    )]
    NoAdapter {
        /// `org/name`.
        repo: String,
        /// The branch, tag or commit asked for.
        revision: String,
        /// What to do about it.
        hint: String,
    },

    /// The adapter has weights of another format only, or none.
    #[error(
        "the adapter `{repo}` at `{revision}` has {found}, and no `adapter_model.safetensors`: where it's an \
         `adapter_model.bin`, `hf download {repo} --revision {revision} --local-dir {name} && {convert}` fetches and converts it; \
         `--fresh` draws new values instead"
    )]
    NoAdapterWeights {
        /// `org/name`.
        repo: String,
        /// The branch, tag or commit asked for.
        revision: String,
        /// What it has instead.
        found: String,
        /// The folder that it's fetched into.
        name: String,
        /// The command that converts it.
        convert: String,
    },

    /// `model.safetensors.index.json` can't be read.
    #[error("{} of `{repo}` is not an index of weights: expected an object `weight_map` of tensor names to files", path.display())]
    Index {
        /// `org/name`.
        repo: String,
        /// The index.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },

    /// The index names no file at all.
    #[error("{} of `{repo}` names no weights file: expected at least one in `weight_map`", path.display())]
    IndexEmpty {
        /// `org/name`.
        repo: String,
        /// The index.
        path: PathBuf,
    },

    /// The index names something that isn't a file inside the repository.
    #[error(
        "`weight_map` of `{repo}` names `{file}`: expected a relative path inside the repository"
    )]
    ShardName {
        /// `org/name`.
        repo: String,
        /// The name.
        file: String,
    },

    /// Offline, and the cache isn't complete.
    #[error(
        "`{file}` of `{repo}` at `{revision}` is not in the cache, and offline nothing is fetched: run once without \
         `--offline` and without `HF_HUB_OFFLINE`"
    )]
    Offline {
        /// `org/name`.
        repo: String,
        /// The branch, tag or commit asked for.
        revision: String,
        /// The first file that's missing.
        file: String,
    },

    /// No connection to the hub.
    #[error(
        "cannot reach {endpoint} for `{repo}`: check the network and `HF_ENDPOINT`, or use what the cache holds with \
         `--offline`"
    )]
    Unreachable {
        /// `org/name`.
        repo: String,
        /// The hub's address.
        endpoint: String,
        /// What the connection attempt met.
        source: Box<dyn Error + Send + Sync>,
    },

    /// A transfer ended before the file did.
    #[error("the download of `{file}` of `{repo}` was cut off: run the command again")]
    Cut {
        /// `org/name`.
        repo: String,
        /// The file's path in the repository, or the address of the hub's answer.
        file: String,
        /// What the connection met.
        source: Box<dyn Error + Send + Sync>,
    },

    /// Nothing was received for a long time.
    #[error(
        "nothing was received for `{file}` of `{repo}` in {seconds} s: run the command again, or raise \
         `HF_HUB_DOWNLOAD_TIMEOUT`"
    )]
    Stalled {
        /// `org/name`.
        repo: String,
        /// The file's path in the repository, or what else was asked for.
        file: String,
        /// How long it was waited for.
        seconds: f64,
    },

    /// What was received isn't what the hub announced. It has been removed from the cache.
    #[error(
        "`{file}` of `{repo}` arrived with {found}, expected {expected}: run the command again"
    )]
    Damaged {
        /// `org/name`.
        repo: String,
        /// The file's path in the repository.
        file: String,
        /// The size or the SHA-256 that it has.
        found: String,
        /// The size or the SHA-256 that the hub announced.
        expected: String,
    },

    /// HTTP 429.
    #[error(
        "the hub limits the rate of requests for `{repo}`: wait some minutes, or set `HF_TOKEN` for a higher limit"
    )]
    RateLimited {
        /// `org/name`.
        repo: String,
    },

    /// Any other HTTP status that isn't a success.
    #[error("the hub answered {status} for `{repo}`: try again later")]
    Status {
        /// `org/name`.
        repo: String,
        /// The status' number and name.
        status: String,
    },

    /// Another process holds the lock of a file in the cache.
    #[error("another process is downloading `{file}` of `{repo}`: wait until it has ended")]
    Locked {
        /// `org/name`.
        repo: String,
        /// The file's path in the repository.
        file: String,
    },

    /// The cache folder can't be read or written.
    #[error("cannot use the hub cache at {}: check its permissions and free space, or set `HF_HUB_CACHE`", path.display())]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// An answer that's no answer of a hub.
    #[error(
        "the answer of {endpoint} for `{repo}` makes no sense: check that `HF_ENDPOINT` is a Hugging Face hub"
    )]
    Answer {
        /// `org/name`.
        repo: String,
        /// The hub's address.
        endpoint: String,
        /// What is wrong with it.
        source: Box<dyn Error + Send + Sync>,
    },

    /// No secure connection can be made at all.
    #[error(
        "cannot start the hub client: check that the system has CA certificates (package `ca-certificates`)"
    )]
    Client {
        /// What failed.
        source: Box<dyn Error + Send + Sync>,
    },
}
