//! The hub's side: which commit and files a revision has, a file's description, and its bytes.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use ureq::http::{StatusCode, header};

use super::cache::is_commit_hash;
use super::http::{Http, LINKED_ETAG, REPO_COMMIT, Response};
use super::refusal::Asked;
use super::shards::is_plain;
use super::{HubError, HubId, HubSettings};

/// What is escaped in a part of an address.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
/// What is escaped in a path.
const ESCAPED_IN_PATH: &AsciiSet = &ESCAPED.remove(b'/');

/// Bytes that an answer with a commit's files may have. That of 10,000 files has one MiB.
const LONGEST_LISTING: usize = 32 << 20;
/// How many times as long as nothing may happen, such an answer may take.
const LONGEST_WAIT: u32 = 10;

/// What the hub has under a revision.
pub(super) struct Listing {
    /// The full commit hash.
    pub(super) commit: String,
    /// Paths in the repository.
    pub(super) files: BTreeSet<String>,
}

/// What the hub says about a file before it sends it.
pub(super) struct Description {
    /// The name of the file's blob: the SHA-256 of a large file, else git's hash of it.
    pub(super) etag: String,
    pub(super) size_bytes: Option<u64>,
}

impl Description {
    /// The file's SHA-256, if the hub says it.
    pub(super) fn sha256(&self) -> Option<&str> {
        let is_hash =
            self.etag.len() == 64 && self.etag.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hash.then_some(self.etag.as_str())
    }
}

/// The bytes of a file, from `from` on.
pub(super) struct Contents {
    pub(super) from: u64,
    pub(super) reader: ureq::BodyReader<'static>,
}

/// One repository, at one revision.
pub(super) struct Remote<'a> {
    id: &'a HubId,
    settings: &'a HubSettings,
    http: Http<'a>,
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl<'a> Remote<'a> {
    /// Sets the client up. Makes no request.
    pub(super) fn new(id: &'a HubId, settings: &'a HubSettings) -> Result<Self, HubError> {
        Ok(Remote {
            id,
            settings,
            http: Http::new(id, settings)?,
        })
    }

    /// The commit and the files of the revision.
    pub(super) fn listing(&self) -> Result<Listing, HubError> {
        let asked = Asked::Listing;
        let revision = utf8_percent_encode(self.id.revision(), ESCAPED);
        let url = format!(
            "{}/api/models/{}/revision/{revision}",
            self.settings.endpoint, self.id.repo
        );
        let mut text = Vec::new();
        let mut reader = self.http.get(asked, &url, 0)?.into_body().into_reader();
        let (began, mut part) = (Instant::now(), vec![0; 1 << 16]);
        loop {
            match reader.read(&mut part) {
                Ok(0) => break,
                Ok(count) => text.extend(&part[..count]),
                Err(error) => return Err(self.http.cut(asked, error.into())),
            }
            // Each part may come in time, and the last one never.
            let is_slow = began.elapsed() > LONGEST_WAIT * self.settings.patience;
            if text.len() > LONGEST_LISTING || is_slow {
                return Err(self.http.senseless("a list of files without an end"));
            }
        }
        let info: Info =
            serde_json::from_slice(&text).map_err(|error| self.http.senseless(error))?;
        if !is_commit_hash(&info.sha) {
            return Err(self.http.senseless("no commit hash in `sha`"));
        }
        let files = info.siblings.into_iter().map(|sibling| sibling.rfilename);
        Ok(Listing {
            commit: info.sha,
            // They become paths in the cache.
            files: files.filter(|file| is_plain(file)).collect(),
        })
    }

    /// What the hub says about a file.
    pub(super) fn describe(&self, commit: &str, file: &str) -> Result<Description, HubError> {
        let url = self.file_url(commit, file);
        let response = self.http.describe(Asked::File(file), &url)?;
        if text_of(&response, REPO_COMMIT).is_none() {
            return Err(self.http.senseless("no header `x-repo-commit`"));
        }
        let etag = text_of(&response, LINKED_ETAG)
            .or_else(|| text_of(&response, header::ETAG.as_str()))
            .map(|etag| etag.trim_start_matches("W/").trim_matches('"'))
            .filter(|etag| is_plain_name(etag))
            .ok_or_else(|| self.http.senseless("no header `etag`"))?;
        let own_size = || {
            let is_file = response.status().is_success();
            is_file.then(|| text_of(&response, header::CONTENT_LENGTH.as_str()))?
        };
        let size = text_of(&response, "x-linked-size").or_else(own_size);
        Ok(Description {
            etag: etag.to_owned(),
            size_bytes: size.and_then(|size| size.parse().ok()),
        })
    }

    /// The bytes of a file: those from `from` on if the server can begin there, else all.
    pub(super) fn open(&self, commit: &str, file: &str, from: u64) -> Result<Contents, HubError> {
        let url = self.file_url(commit, file);
        let response = self.http.get(Asked::File(file), &url, from)?;
        let from = match response.status() {
            StatusCode::PARTIAL_CONTENT => first_byte(&response)
                .filter(|first| *first == from)
                .ok_or_else(|| self.http.senseless("bytes that were not asked for"))?,
            _ => 0,
        };
        Ok(Contents {
            from,
            reader: response.into_body().into_reader(),
        })
    }

    /// `org/name`.
    pub(super) fn repo(&self) -> &str {
        &self.id.repo
    }

    /// How long nothing may happen.
    pub(super) fn patience(&self) -> Duration {
        self.settings.patience
    }

    /// The error for a transfer that broke off.
    pub(super) fn cut(&self, file: &str, error: io::Error) -> HubError {
        self.http.cut(Asked::File(file), error.into())
    }

    fn file_url(&self, commit: &str, file: &str) -> String {
        let file = utf8_percent_encode(file, ESCAPED_IN_PATH);
        format!(
            "{}/{}/resolve/{commit}/{file}",
            self.settings.endpoint, self.id.repo
        )
    }
}

/// An etag becomes a file's name.
fn is_plain_name(etag: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !etag.is_empty() && !etag.starts_with('.') && etag.bytes().all(is_plain)
}

fn text_of<'r>(response: &'r Response, name: &str) -> Option<&'r str> {
    response.headers().get(name)?.to_str().ok()
}

/// The number of the first byte of a part: `5` of `bytes 5-9/10`.
fn first_byte(response: &Response) -> Option<u64> {
    let range = text_of(response, header::CONTENT_RANGE.as_str())?;
    let (first, _) = range.strip_prefix("bytes ")?.split_once('-')?;
    first.parse().ok()
}
