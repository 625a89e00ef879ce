//! The error for an answer whose status isn't a success.

use std::fmt;

use super::http::Response;
use super::{HubError, HubId, HubSettings};

/// What a request asks for.
#[derive(Clone, Copy)]
pub(super) enum Asked<'a> {
    /// The commit and the files of a revision.
    Listing,
    /// A file of a commit.
    File(&'a str),
}

impl fmt::Display for Asked<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Asked::Listing => "the list of files",
            Asked::File(file) => file,
        })
    }
}

/// The error for the answer. `by_hub`: the hub gave it, and not a file server.
pub(super) fn refusal(
    id: &HubId,
    settings: &HubSettings,
    asked: Asked,
    response: &Response,
    by_hub: bool,
) -> HubError {
    let repo = id.repo.clone();
    let page = format!("{}/{repo}", settings.endpoint);
    let code = response.headers().get("x-error-code");
    let code = code.and_then(|code| code.to_str().ok());
    match response.status().as_u16() {
        429 => HubError::RateLimited { repo },
        401 | 403 if code == Some("GatedRepo") => HubError::Gated { repo, url: page },
        401 if by_hub && settings.token.is_some() => HubError::TokenRejected { repo },
        401 if by_hub => HubError::TokenMissing { repo },
        403 if by_hub => HubError::Forbidden { repo },
        404 if by_hub => not_found(id, &page, asked, code),
        _ => HubError::Status {
            repo,
            status: response.status().to_string(),
        },
    }
}

/// The hub's error code says what doesn't exist. Without a code, it's what was asked for.
fn not_found(id: &HubId, page: &str, asked: Asked, code: Option<&str>) -> HubError {
    let repo = id.repo.clone();
    let revision = id.revision().to_owned();
    match (code, asked) {
        (Some("RepoNotFound"), _) => HubError::RepoNotFound { repo },
        (Some("RevisionNotFound"), _) => HubError::RevisionNotFound {
            repo,
            revision,
            url: format!("{page}/commits"),
        },
        (_, Asked::File(file)) => HubError::FileNotFound {
            repo,
            revision,
            file: file.to_owned(),
        },
        (None, Asked::Listing) if id.revision.is_some() => HubError::RevisionNotFound {
            repo,
            revision,
            url: format!("{page}/commits"),
        },
        (_, Asked::Listing) => HubError::RepoNotFound { repo },
    }
}
