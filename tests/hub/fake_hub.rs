//! A small Hugging Face hub on the loopback interface, with as much of its HTTP API as fetching a
//! model uses.
//!
//! - `GET /api/models/<repo>/revision/<revision>`: the commit and the names of its files
//! - `HEAD` and `GET /<repo>/resolve/<revision>/<file>`: a small file itself; for a large one, a
//!   redirect with `x-linked-etag` and `x-linked-size` to a file server on another origin, here a
//!   second port
//! - redirects within the hub, as for a renamed repository, and to another hub, as from a mirror
//! - `Range` requests, answered with a part
//! - errors with the hub's status codes and its `x-error-code`
//!
//! Sources: <https://huggingface.co/docs/hub/api>; `huggingface_hub`, `file_download.py` and
//! `utils/_http.py`.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard},
    thread,
};

use sha2::{Digest, Sha256};

/// A commit: its files, and the revisions that name it.
#[derive(Clone)]
pub struct Commit {
    pub hash: String,
    pub revisions: Vec<String>,
    pub files: BTreeMap<String, Contents>,
}

/// A small file, stored in the repository, or a large one, on the file server.
#[derive(Clone)]
pub enum Contents {
    Small(Vec<u8>),
    Large(Vec<u8>),
}

/// Who may read the repository.
#[derive(Clone)]
pub enum Access {
    Open,
    /// Only with this token; other requests get 401.
    Token(String),
    /// The listing is public; files are refused with this status and `x-error-code: GatedRepo`.
    Gated(u16),
    /// Status 403 without an error code.
    Forbidden,
}

/// What is wrong with the transfer of a file's body.
#[derive(Clone)]
pub enum Fault {
    /// The connection closes after this many bytes.
    CutAfter(usize),
    /// This status and a web page instead of the file.
    Status(u16),
    /// The right number of bytes with other values.
    OtherBytes,
    /// Only this many bytes, and nothing that says that there are more.
    Shorter(usize),
    /// After this many bytes nothing more comes, and the connection stays open.
    SilentAfter(usize),
    /// A request for a part is answered with the whole.
    NoParts,
}

/// A received request.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub authorization: Option<String>,
    /// The first byte that is asked for.
    pub from: Option<usize>,
}

struct State {
    repo: String,
    access: Access,
    commits: Vec<Commit>,
    faults: BTreeMap<String, Fault>,
    listing_status: Option<u16>,
    old_name: Option<String>,
    moved_to: Option<String>,
    hub_requests: Vec<Request>,
    file_server_requests: Vec<Request>,
}

/// A hub with one repository. It lives until the process ends.
pub struct FakeHub {
    pub endpoint: String,
    state: Arc<Mutex<State>>,
}

impl FakeHub {
    pub fn start(repo: &str, commits: Vec<Commit>) -> FakeHub {
        let state = Arc::new(Mutex::new(State {
            repo: repo.to_owned(),
            access: Access::Open,
            commits,
            faults: BTreeMap::new(),
            listing_status: None,
            old_name: None,
            moved_to: None,
            hub_requests: Vec::new(),
            file_server_requests: Vec::new(),
        }));
        let file_server = serve(&state, |state, request| {
            state.file_server_requests.push(request.clone());
            from_file_server(state, request)
        });
        let hub = serve(&state, move |state, request| {
            state.hub_requests.push(request.clone());
            from_hub(state, request, file_server)
        });
        FakeHub {
            endpoint: format!("http://{hub}"),
            state,
        }
    }

    pub fn set_access(&self, access: Access) {
        self.state().access = access;
    }

    pub fn set_commits(&self, commits: Vec<Commit>) {
        self.state().commits = commits;
    }

    /// Breaks the transfer of `file`, or repairs it.
    pub fn set_fault(&self, file: &str, fault: Option<Fault>) {
        let mut state = self.state();
        match fault {
            Some(fault) => state.faults.insert(file.to_owned(), fault),
            None => state.faults.remove(file),
        };
    }

    /// Answers every request for the listing with this status.
    pub fn set_listing_status(&self, status: u16) {
        self.state().listing_status = Some(status);
    }

    /// Answers requests for `old_name` with a redirect to the repository's name.
    pub fn set_old_name(&self, old_name: &str) {
        self.state().old_name = Some(old_name.to_owned());
    }

    /// Answers every request with a redirect to the same path of another server.
    pub fn set_moved_to(&self, endpoint: &str) {
        self.state().moved_to = Some(endpoint.to_owned());
    }

    /// The requests since the last call: `(to the hub, to the file server)`.
    pub fn take_requests(&self) -> (Vec<Request>, Vec<Request>) {
        let mut state = self.state();
        (
            std::mem::take(&mut state.hub_requests),
            std::mem::take(&mut state.file_server_requests),
        )
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// The name of a file's blob in the cache.
pub fn etag(contents: &Contents) -> String {
    match contents {
        // A small file's etag is its git hash. Any forty digits derived from the bytes will do
        // here.
        Contents::Small(bytes) => sha256(bytes)[..40].to_owned(),
        Contents::Large(bytes) => sha256(bytes),
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

struct Response {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// How much of the body is sent before the connection closes, or falls silent.
    sent: usize,
    is_silent_at_end: bool,
}

impl Response {
    fn new(status: u16, headers: Vec<(&'static str, String)>, body: Vec<u8>) -> Response {
        let sent = body.len();
        Response {
            status,
            headers,
            body,
            sent,
            is_silent_at_end: false,
        }
    }

    fn redirect(status: u16, location: String) -> Response {
        Response::new(status, vec![("location", location)], Vec::new())
    }

    fn error(status: u16, code: Option<&str>) -> Response {
        let headers = code
            .map(|code| ("x-error-code", code.to_owned()))
            .into_iter()
            .collect();
        Response::new(
            status,
            headers,
            format!("<html>error {status}</html>").into_bytes(),
        )
    }
}

fn from_hub(state: &State, request: &Request, file_server: SocketAddr) -> Response {
    if let Some(endpoint) = &state.moved_to {
        return Response::redirect(308, format!("{endpoint}{}", request.path));
    }
    if let Some(old_name) = &state.old_name
        && request.path.contains(old_name)
    {
        return Response::redirect(307, request.path.replacen(old_name, &state.repo, 1));
    }
    if let Some(rest) = request.path.strip_prefix("/api/models/") {
        if let Some(status) = state.listing_status {
            return Response::error(status, None);
        }
        let Some((repo, revision)) = rest.split_once("/revision/") else {
            return Response::error(404, None);
        };
        return match commit(state, request, repo, revision) {
            Err(refusal) => refusal,
            Ok(commit) => {
                let siblings: Vec<_> = commit
                    .files
                    .keys()
                    .map(|file| serde_json::json!({"rfilename": file}))
                    .collect();
                let body =
                    serde_json::json!({"id": repo, "sha": commit.hash, "siblings": siblings});
                Response::new(
                    200,
                    vec![("content-type", "application/json".to_owned())],
                    body.to_string().into(),
                )
            }
        };
    }

    let Some((repo, rest)) = request.path[1..].split_once("/resolve/") else {
        return Response::error(404, None);
    };
    let (revision, file) = rest.split_once('/').unwrap();
    let commit = match commit(state, request, repo, revision) {
        Err(refusal) => return refusal,
        Ok(commit) => commit,
    };
    match state.access {
        Access::Gated(status) => return Response::error(status, Some("GatedRepo")),
        Access::Forbidden => return Response::error(403, None),
        Access::Open | Access::Token(_) => {}
    }
    let Some(contents) = commit.files.get(file) else {
        return Response::error(404, Some("EntryNotFound"));
    };
    let etag = etag(contents);
    let mut headers = vec![("x-repo-commit", commit.hash.clone())];
    match contents {
        Contents::Small(bytes) => {
            headers.push(("etag", format!("\"{etag}\"")));
            with_fault(state, request, file, headers, bytes)
        }
        Contents::Large(bytes) => {
            headers.push(("x-linked-etag", format!("\"{etag}\"")));
            headers.push(("x-linked-size", bytes.len().to_string()));
            headers.push((
                "location",
                format!("http://{file_server}/{}/{file}", commit.hash),
            ));
            Response::new(302, headers, Vec::new())
        }
    }
}

fn from_file_server(state: &State, request: &Request) -> Response {
    let (hash, file) = request.path[1..].split_once('/').unwrap();
    let commit = state
        .commits
        .iter()
        .find(|commit| commit.hash == hash)
        .unwrap();
    let Some(Contents::Large(bytes)) = commit.files.get(file) else {
        return Response::error(404, None);
    };
    with_fault(
        state,
        request,
        file,
        vec![("etag", "\"of the file server\"".to_owned())],
        bytes,
    )
}

/// Applies the fault that the test has set for the file, if any. `HEAD` requests are answered as if
/// there were none.
fn with_fault(
    state: &State,
    request: &Request,
    file: &str,
    headers: Vec<(&'static str, String)>,
    bytes: &[u8],
) -> Response {
    let fault = state.faults.get(file).filter(|_| request.method == "GET");
    let part = request
        .from
        .filter(|_| !matches!(fault, Some(Fault::NoParts)));
    let whole = match part {
        None => Response::new(200, headers, bytes.to_vec()),
        Some(from) => {
            let (last, size) = (bytes.len() - 1, bytes.len());
            let range = ("content-range", format!("bytes {from}-{last}/{size}"));
            Response::new(206, [headers, vec![range]].concat(), bytes[from..].to_vec())
        }
    };
    match fault {
        None | Some(Fault::NoParts) => whole,
        Some(Fault::CutAfter(sent)) => Response {
            sent: *sent,
            ..whole
        },
        Some(Fault::SilentAfter(sent)) => Response {
            sent: *sent,
            is_silent_at_end: true,
            ..whole
        },
        Some(Fault::Status(status)) => Response::error(*status, None),
        Some(Fault::OtherBytes) => Response {
            body: vec![b'?'; whole.body.len()],
            ..whole
        },
        Some(Fault::Shorter(length)) => {
            Response::new(200, Vec::new(), whole.body[..*length].to_vec())
        }
    }
}

fn commit<'a>(
    state: &'a State,
    request: &Request,
    repo: &str,
    revision: &str,
) -> Result<&'a Commit, Response> {
    if let Access::Token(token) = &state.access
        && request.authorization.as_deref() != Some(&format!("Bearer {token}"))
    {
        return Err(Response::error(401, Some("RepoNotFound")));
    }
    if repo != state.repo {
        return Err(Response::error(404, Some("RepoNotFound")));
    }
    let revision = revision.replace("%2F", "/");
    state
        .commits
        .iter()
        .find(|commit| commit.hash == revision || commit.revisions.contains(&revision))
        .ok_or_else(|| Response::error(404, Some("RevisionNotFound")))
}

fn serve<F>(state: &Arc<Mutex<State>>, answer: F) -> SocketAddr
where
    F: Fn(&mut State, &Request) -> Response + Send + Sync + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let state = Arc::clone(state);
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let (state, answer) = (Arc::clone(&state), Arc::clone(&answer));
            thread::spawn(move || {
                // A client may close a connection that it no longer needs; that isn't a failure.
                if let Some(request) = read_request(&stream) {
                    let response = answer(&mut state.lock().unwrap(), &request);
                    let _ = write_response(&stream, &request, &response);
                }
            });
        }
    });
    address
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let path = target.split('?').next()?.to_owned();
    let mut request = Request {
        method,
        path,
        authorization: None,
        from: None,
    };
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => request.authorization = Some(value.to_owned()),
            "range" => {
                let from = value.strip_prefix("bytes=")?.strip_suffix('-')?;
                request.from = from.parse().ok();
            }
            _ => {}
        }
    }
    Some(request)
}

fn write_response(
    mut stream: &TcpStream,
    request: &Request,
    response: &Response,
) -> std::io::Result<()> {
    let (status, length) = (response.status, response.body.len());
    let mut head =
        format!("HTTP/1.1 {status} fake\r\nconnection: close\r\ncontent-length: {length}\r\n");
    for (name, value) in &response.headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if request.method != "HEAD" {
        stream.write_all(&response.body[..response.sent])?;
    }
    stream.flush()?;
    if response.is_silent_at_end {
        // Until the client gives up.
        stream.read_exact(&mut [0])?;
    }
    Ok(())
}
