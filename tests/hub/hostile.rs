//! Answers that no hub would give: without an end, slower and slower, with names that lead elsewhere.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use peft_bench::model::hub::HubError;

use crate::{COMMIT, REPO, Scene, assert_says, single_file};

impl Scene {
    /// Fetches from a server that answers each request with `answer`.
    fn from(mut self, answer: impl Fn(&str, &mut TcpStream) + Send + 'static) -> HubError {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        self.settings.endpoint = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                    head.push(byte[0]);
                }
                answer(&String::from_utf8_lossy(&head), &mut stream);
            }
        });
        let error = self.fetch(REPO).unwrap_err();
        assert_says(&error, &["`org/tiny-model`"]);
        let entries = |folder: &Path| fs::read_dir(folder).map_or(0, Iterator::count);
        assert!(entries(&self.in_cache("snapshots")) == 0);
        error
    }
}

/// Sends `body` with these headers; the client may have gone.
fn send(stream: &mut TcpStream, headers: &str, body: &str) {
    let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n{headers}\r\n");
    let _ = stream.write_all(format!("{head}{body}").as_bytes());
}

/// A list of files, of which one is described by `headers`.
fn described_by(headers: &'static str) -> impl Fn(&str, &mut TcpStream) {
    move |request, stream| match request.starts_with("HEAD") {
        true => send(stream, headers, ""),
        false if request.contains("/api/models/") => {
            let list = format!(
                r#"{{"sha": "{COMMIT}", "siblings": [{{"rfilename": "config.json"}}, {{"rfilename": "model.safetensors"}}]}}"#
            );
            send(stream, "", &list);
        }
        false => send(stream, "", "{}"),
    }
}

#[test]
fn a_list_of_files_without_an_end_is_given_up() {
    let scene = Scene::new(single_file());
    let error = scene.from(|_, stream| {
        send(stream, "", r#"{"sha": ""#);
        let part = [b'a'; 1 << 16];
        while stream.write_all(&part).is_ok() {}
    });
    assert!(matches!(error, HubError::Answer { .. }), "{error:?}");
}

#[test]
fn a_list_of_files_that_comes_byte_by_byte_is_given_up() {
    let mut scene = Scene::new(single_file());
    scene.settings.patience = Duration::from_millis(100);
    let began = Instant::now();
    let error = scene.from(|_, stream| {
        send(stream, "", "{");
        while stream.write_all(b" ").is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    });
    assert!(matches!(error, HubError::Answer { .. }), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_blob_s_name_that_leads_elsewhere_is_refused() {
    for headers in [
        "x-repo-commit: main\r\netag: \"../../../stolen\"\r\ncontent-length: 2\r\n",
        "x-repo-commit: main\r\netag: \"/tmp/stolen\"\r\ncontent-length: 2\r\n",
        "x-repo-commit: main\r\netag: \"..\"\r\ncontent-length: 2\r\n",
        "x-repo-commit: main\r\ncontent-length: 2\r\n",
    ] {
        let error = Scene::new(single_file()).from(described_by(headers));
        assert!(matches!(error, HubError::Answer { .. }), "{error:?}");
    }
}

#[test]
fn a_commit_that_leads_elsewhere_is_refused() {
    for commit in ["../../../../stolen", "/tmp/stolen", "main", ""] {
        let list = format!(r#"{{"sha": "{commit}", "siblings": []}}"#);
        let scene = Scene::new(single_file());
        let error = scene.from(move |_, stream| send(stream, "", &list));
        assert!(matches!(error, HubError::Answer { .. }), "{error:?}");
    }
}

#[test]
fn more_bytes_than_were_announced_are_refused() {
    let headers = "x-repo-commit: main\r\netag: \"aa\"\r\nx-linked-size: 1\r\n";
    let error = Scene::new(single_file()).from(described_by(headers));
    assert!(matches!(error, HubError::Damaged { .. }), "{error:?}");
}
