//! Sends one request to the hub: with time limits and the token, following redirects, and a second
//! time if the first try fails for a temporary reason.

use std::io::ErrorKind;
use std::thread;
use std::time::Duration;

use ureq::http::{Method, Uri, header};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body, Timeout};

use super::location::{self, Origin};
use super::refusal::{Asked, refusal};
use super::{HubError, HubId, HubSettings};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause before the second try, which is made after a failed connection or a temporary error of
/// the hub.
const RETRY_DELAY: Duration = Duration::from_millis(200);
const REDIRECTS: usize = 10;

pub(super) const LINKED_ETAG: &str = "x-linked-etag";
pub(super) const REPO_COMMIT: &str = "x-repo-commit";

pub(super) type Response = ureq::http::Response<Body>;

/// A client for one repository of one hub.
pub(super) struct Http<'a> {
    id: &'a HubId,
    settings: &'a HubSettings,
    agent: Agent,
    origin: Origin,
    /// The header's value, with the token in it.
    authorization: Option<String>,
}

impl<'a> Http<'a> {
    /// Sets the client up. Makes no request.
    pub(super) fn new(id: &'a HubId, settings: &'a HubSettings) -> Result<Self, HubError> {
        let endpoint = |source| HubError::Endpoint {
            endpoint: settings.endpoint.clone(),
            source,
        };
        let uri: Uri = settings
            .endpoint
            .parse()
            .map_err(|error: ureq::http::uri::InvalidUri| endpoint(error.into()))?;
        let origin = Origin::of(&uri)
            .ok_or_else(|| endpoint("it begins with neither `http://` nor `https://`".into()))?;
        let authorization = match settings.token.as_deref() {
            None => None,
            Some(token) if token.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Some(format!("Bearer {token}"))
            }
            Some(_) => return Err(HubError::TokenMalformed),
        };
        Ok(Http {
            id,
            settings,
            agent: agent(settings.patience),
            origin,
            authorization,
        })
    }

    /// The answer to a `HEAD` request for a file. Redirects are followed up to the one that leads
    /// from the hub to a file server: that redirect's headers describe the file, the file server's
    /// don't.
    pub(super) fn describe(&self, asked: Asked, url: &str) -> Result<Response, HubError> {
        let describes = |response: &Response| {
            let has = |name: &str| response.headers().contains_key(name);
            has(REPO_COMMIT) && (has(LINKED_ETAG) || has(header::ETAG.as_str()))
        };
        self.follow(&Method::HEAD, asked, url, 0, describes)
    }

    /// The answer to a `GET` request for the bytes from `from` on. A server may send all bytes
    /// instead.
    pub(super) fn get(&self, asked: Asked, url: &str, from: u64) -> Result<Response, HubError> {
        self.follow(&Method::GET, asked, url, from, |_| false)
    }

    /// Follows redirects to the answer, or to the first redirect to another server for which
    /// `is_enough` is true. What is returned is a success or such a redirect.
    fn follow(
        &self,
        method: &Method,
        asked: Asked,
        url: &str,
        from: u64,
        is_enough: impl Fn(&Response) -> bool,
    ) -> Result<Response, HubError> {
        let mut url: Uri = url
            .parse()
            .map_err(|error: ureq::http::uri::InvalidUri| self.senseless(error))?;
        for _ in 0..=REDIRECTS {
            let response = self.send(method, asked, &url, from)?;
            let Some(target) = response.headers().get(header::LOCATION) else {
                if response.status().is_success() {
                    return Ok(response);
                }
                let by_hub = Origin::of(&url).as_ref() == Some(&self.origin);
                return Err(refusal(self.id, self.settings, asked, &response, by_hub));
            };
            let target = target
                .to_str()
                .ok()
                .and_then(|target| location::join(&url, target))
                .ok_or_else(|| self.senseless("a redirect to no address"))?;
            if Origin::of(&target) != Origin::of(&url) && is_enough(&response) {
                return Ok(response);
            }
            url = target;
        }
        Err(self.senseless("too many redirects"))
    }

    /// Sends one request, and once more if that may help.
    fn send(
        &self,
        method: &Method,
        asked: Asked,
        url: &Uri,
        from: u64,
    ) -> Result<Response, HubError> {
        let mut answer = self.try_once(method, url, from);
        if is_temporary(&answer) {
            thread::sleep(RETRY_DELAY);
            answer = self.try_once(method, url, from);
        }
        answer.map_err(|error| self.explain(asked, error))
    }

    /// Only the hub gets the token: no other server does, even if the hub redirects to it.
    fn try_once(&self, method: &Method, url: &Uri, from: u64) -> Result<Response, ureq::Error> {
        let mut request = match *method {
            Method::HEAD => self.agent.head(url),
            _ => self.agent.get(url),
        };
        if let Some(authorization) = &self.authorization
            && Origin::of(url).as_ref() == Some(&self.origin)
        {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        request.call()
    }

    /// The error for a request without an answer.
    fn explain(&self, asked: Asked, error: ureq::Error) -> HubError {
        let repo = self.id.repo.clone();
        match error {
            ureq::Error::Timeout(Timeout::Connect | Timeout::Resolve)
            | ureq::Error::HostNotFound
            | ureq::Error::ConnectionFailed
            | ureq::Error::ConnectProxyFailed(_) => self.unreachable(error),
            ureq::Error::Io(ref source) if !is_disconnect(source.kind()) => self.unreachable(error),
            ureq::Error::Io(_) | ureq::Error::Timeout(_) => self.cut(asked, error),
            ureq::Error::Rustls(_) | ureq::Error::Tls(_) => HubError::Client {
                source: error.into(),
            },
            _ => HubError::Answer {
                repo,
                endpoint: self.settings.endpoint.clone(),
                source: error.into(),
            },
        }
    }

    fn unreachable(&self, source: ureq::Error) -> HubError {
        HubError::Unreachable {
            repo: self.id.repo.clone(),
            endpoint: self.settings.endpoint.clone(),
            source: source.into(),
        }
    }

    /// The error for an answer that broke off, or didn't come in time.
    pub(super) fn cut(&self, asked: Asked, error: ureq::Error) -> HubError {
        let repo = self.id.repo.clone();
        let file = asked.to_string();
        match error {
            ureq::Error::Timeout(_) => HubError::Stalled {
                repo,
                file,
                seconds: self.settings.patience.as_secs_f64(),
            },
            source => HubError::Cut {
                repo,
                file,
                source: source.into(),
            },
        }
    }

    /// The error for an answer that a hub wouldn't give.
    pub(super) fn senseless(
        &self,
        problem: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> HubError {
        HubError::Answer {
            repo: self.id.repo.clone(),
            endpoint: self.settings.endpoint.clone(),
            source: problem.into(),
        }
    }
}

/// It leaves redirects and statuses to this module. It uses the proxy of the environment and the
/// system's certificates.
fn agent(patience: Duration) -> Agent {
    let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier);
    Agent::config_builder()
        .user_agent(concat!("peft-bench/", env!("CARGO_PKG_VERSION")))
        // Sizes and ranges count bytes of the file itself, not of a compressed transfer.
        .accept_encoding("identity")
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_resolve(Some(CONNECT_TIMEOUT))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_per_read(Some(patience))
        .timeout_per_write(Some(patience))
        .tls_config(tls.build())
        .build()
        .new_agent()
}

/// Whether the same request may succeed in a moment.
fn is_temporary(answer: &Result<Response, ureq::Error>) -> bool {
    match answer {
        Ok(response) => matches!(
            response.status().as_u16(),
            408 | 429 | 500 | 502 | 503 | 504
        ),
        Err(error) => matches!(
            error,
            ureq::Error::Io(_)
                | ureq::Error::HostNotFound
                | ureq::Error::ConnectionFailed
                | ureq::Error::Timeout(Timeout::Connect | Timeout::Resolve)
        ),
    }
}

/// Whether an existing connection ended. Other errors mean that none could be made.
fn is_disconnect(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::UnexpectedEof
    )
}
