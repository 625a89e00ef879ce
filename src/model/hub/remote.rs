//! The hub's side: which commit and files a revision has, and one file at a time from there into the cache.
//!
//! `hf-hub` makes the requests, follows them to the file server, takes the cache's locks, writes to `<etag>.incomplete`
//! and renames. What it lacks is added here: time limits, one error for each thing that a user can mend, and
//! progress on the caller's thread.

use std::{
    cell::Cell,
    collections::BTreeSet,
    future::Future,
    pin::pin,
    sync::mpsc::{self, Receiver, Sender},
    time::Duration,
};

use hf_hub::{
    HFClient, HFError, HFRepository, RepoTypeModel,
    progress::{DownloadEvent, ProgressEvent, ProgressHandler},
};
use tokio::{runtime::Runtime, time::timeout};

use super::{DownloadProgress, HubError, HubId, HubSettings, cache::is_commit_hash};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// After a first try that met no connection or a passing trouble of the hub's (429, 500, 502, 503, 504).
const RETRIES: usize = 1;
/// How often progress is reported, and silence is looked for.
const TICK: Duration = Duration::from_millis(100);

/// What the hub has under a revision.
pub(super) struct Listing {
    /// The full commit hash.
    pub(super) commit: String,
    /// Paths in the repository.
    pub(super) files: BTreeSet<String>,
}

/// A connection to one repository, at one revision.
pub(super) struct Remote<'a> {
    id: &'a HubId,
    settings: &'a HubSettings,
    runtime: Runtime,
    repository: HFRepository<RepoTypeModel>,
}

impl<'a> Remote<'a> {
    /// Sets the client up. Makes no request.
    pub(super) fn connect(id: &'a HubId, settings: &'a HubSettings) -> Result<Self, HubError> {
        // `hf-hub` looks for a token of its own where it's given none, and sends none that can't be a header's value.
        let token = match settings.token.as_deref() {
            None => "\n",
            Some(token) if token.bytes().all(|byte| byte.is_ascii_graphic()) => token,
            Some(_) => return Err(HubError::TokenMalformed),
        };
        let http = reqwest::Client::builder()
            .user_agent(concat!("peft-bench/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .map_err(|error| HubError::Client {
                source: error.into(),
            })?;
        let client = HFClient::builder()
            .client(http)
            .endpoint(&settings.endpoint)
            .cache_dir(&settings.cache_dir)
            .token(token)
            .retry_max_attempts(RETRIES)
            .build()
            .map_err(|error| match error {
                HFError::Url(source) => HubError::Endpoint {
                    endpoint: settings.endpoint.clone(),
                    source: source.into(),
                },
                other => HubError::Client {
                    source: other.into(),
                },
            })?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| HubError::Client {
                source: error.into(),
            })?;
        let (org, name) = hf_hub::split_id(&id.repo);
        let repository = client.model(org, name);
        Ok(Remote {
            id,
            settings,
            runtime,
            repository,
        })
    }

    /// The commit and the files of the revision.
    pub(super) fn listing(&self) -> Result<Listing, HubError> {
        const WHAT: &str = "the list of files";
        let request = self.repository.info().revision(self.id.revision()).send();
        let info = self
            .wait(WHAT, request, || false)?
            .map_err(|error| self.explain(WHAT, error))?;
        let commit = info
            .sha
            .filter(|sha| is_commit_hash(sha))
            .ok_or_else(|| self.answer("no commit hash in `sha`"))?;
        let siblings = info
            .siblings
            .ok_or_else(|| self.answer("no list of files in `siblings`"))?;
        Ok(Listing {
            commit,
            files: siblings
                .into_iter()
                .map(|sibling| sibling.rfilename)
                .collect(),
        })
    }

    /// Downloads one file into the cache. Returns the size in bytes that the hub announced, if it did.
    pub(super) fn download(
        &self,
        commit: &str,
        file: &str,
        progress: &dyn Fn(DownloadProgress),
    ) -> Result<Option<u64>, HubError> {
        let (sender, events) = mpsc::channel();
        let announced = Cell::new(None);
        let report = || {
            let Some(state) = latest(&events, &announced) else {
                return false;
            };
            let total_bytes = announced.get().unwrap_or(0);
            progress(DownloadProgress {
                file: file.to_owned(),
                done_bytes: state,
                total_bytes,
            });
            true
        };
        let request = self
            .repository
            .download_file()
            .filename(file)
            .revision(commit)
            .progress(Forward(sender))
            .send();
        self.wait(file, request, report)?
            .map_err(|error| self.explain(file, error))?;
        Ok(announced.get())
    }

    /// Runs a request on this thread, and gives up once `moved` has seen nothing new for too long.
    fn wait<T>(
        &self,
        what: &str,
        request: impl Future<Output = T>,
        moved: impl Fn() -> bool,
    ) -> Result<T, HubError> {
        self.runtime.block_on(async {
            let mut request = pin!(request);
            let mut silence = Duration::ZERO;
            loop {
                let outcome = timeout(TICK, &mut request).await;
                silence = if moved() {
                    Duration::ZERO
                } else {
                    silence + TICK
                };
                match outcome {
                    Ok(value) => return Ok(value),
                    Err(_) if silence < self.settings.patience => {}
                    Err(_) => {
                        return Err(HubError::Stalled {
                            repo: self.id.repo.clone(),
                            file: what.to_owned(),
                            seconds: silence.as_secs_f64(),
                        });
                    }
                }
            }
        })
    }

    fn answer(&self, problem: &str) -> HubError {
        HubError::Answer {
            repo: self.id.repo.clone(),
            endpoint: self.settings.endpoint.clone(),
            source: problem.into(),
        }
    }

    /// The error that says what to do. `what` is the file that was asked for.
    fn explain(&self, what: &str, error: HFError) -> HubError {
        let repo = self.id.repo.clone();
        let file = what.to_owned();
        let revision = self.id.revision().to_owned();
        let endpoint = self.settings.endpoint.clone();
        let page = format!("{endpoint}/{repo}");
        match error {
            HFError::AuthRequired { context } | HFError::Forbidden { context }
                if context.error_code.as_deref() == Some("GatedRepo") =>
            {
                HubError::Gated { repo, url: page }
            }
            HFError::AuthRequired { .. } if self.settings.token.is_some() => {
                HubError::TokenRejected { repo }
            }
            HFError::AuthRequired { .. } => HubError::TokenMissing { repo },
            HFError::Forbidden { .. } => HubError::Forbidden { repo },
            HFError::RepoNotFound { .. } => HubError::RepoNotFound { repo },
            // `hf-hub` takes every 404 of a request for a revision to be the revision's; the hub's header knows.
            HFError::RevisionNotFound { context, .. } => {
                let code = context.and_then(|context| context.error_code);
                let is_revision = match code.as_deref() {
                    Some(code) => code == "RevisionNotFound",
                    None => self.id.revision.is_some(),
                };
                if is_revision {
                    HubError::RevisionNotFound {
                        repo,
                        revision,
                        url: format!("{page}/commits"),
                    }
                } else {
                    HubError::RepoNotFound { repo }
                }
            }
            HFError::EntryNotFound { .. } => HubError::FileNotFound {
                repo,
                revision,
                file,
            },
            HFError::RateLimited { .. } => HubError::RateLimited { repo },
            HFError::Http { context } => HubError::Status {
                repo,
                status: context.status.to_string(),
            },
            HFError::Request { source, .. } if source.is_connect() || source.is_timeout() => {
                HubError::Unreachable {
                    repo,
                    endpoint,
                    source: source.into(),
                }
            }
            // `json()` reports a body that isn't JSON as it does one that was cut; only the former has a cause in serde.
            HFError::Request { source, .. } if source.is_decode() && has_json_cause(&source) => {
                HubError::Answer {
                    repo,
                    endpoint,
                    source: source.into(),
                }
            }
            HFError::Request { source, .. } => HubError::Cut {
                repo,
                file,
                source: source.into(),
            },
            HFError::Xet { source, .. } => HubError::Cut { repo, file, source },
            HFError::Io(source) => HubError::Cache {
                path: self.settings.cache_dir.clone(),
                source,
            },
            HFError::CacheLockTimeout { .. } => HubError::Locked { repo, file },
            other => HubError::Answer {
                repo,
                endpoint,
                source: other.into(),
            },
        }
    }
}

fn has_json_cause(error: &reqwest::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(json) = error.downcast_ref::<serde_json::Error>() {
            return !json.is_io();
        }
        cause = error.source();
    }
    false
}

/// The bytes received by the newest of the waiting events, if there is any; notes the file's size.
fn latest(events: &Receiver<DownloadEvent>, announced: &Cell<Option<u64>>) -> Option<u64> {
    let mut done = None;
    for event in events.try_iter() {
        match event {
            DownloadEvent::Start { total_bytes, .. } => {
                announced.set(Some(total_bytes).filter(|bytes| *bytes > 0));
                done = done.or(Some(0));
            }
            DownloadEvent::Progress { files } => {
                done = files.last().map(|file| file.bytes_completed).or(done)
            }
            DownloadEvent::AggregateProgress {
                bytes_completed, ..
            } => done = Some(bytes_completed),
            DownloadEvent::Complete => {}
        }
    }
    done
}

/// Sends `hf-hub`'s events to the thread that waits for the download.
struct Forward(Sender<DownloadEvent>);

impl ProgressHandler for Forward {
    fn on_progress(&self, event: &ProgressEvent) {
        if let ProgressEvent::Download(event) = event {
            // The receiver is gone only when the download has been given up.
            let _ = self.0.send(event.clone());
        }
    }
}
