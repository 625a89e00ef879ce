//! What is received and what is kept, and who gets the token.

use std::fs::{self, File};
use std::net::TcpListener;
use std::time::Duration;

use peft_bench::model::hub::HubError;

use crate::fake_hub::{Access, FakeHub, Fault, Request, etag};
use crate::{
    COMMIT, REPO, SINGLE_FILE_NAMES, Scene, WEIGHTS, assert_holds, assert_says, bytes, commit,
    single_file,
};

impl Scene {
    /// A hub whose weights' transfer breaks, and what is said about it.
    fn failing(fault: Fault) -> (Scene, HubError) {
        let mut scene = Scene::new(single_file());
        scene.settings.patience = Duration::from_millis(300);
        scene.hub.set_fault(WEIGHTS, Some(fault));
        let error = scene.fetch(REPO).unwrap_err();
        assert_says(&error, &["`org/tiny-model`"]);
        assert!(!scene.blobs().contains(&weights_etag()));
        let link = scene.in_cache(&format!("snapshots/{COMMIT}/{WEIGHTS}"));
        assert!(!link.is_symlink());
        (scene, error)
    }

    /// The requests of the file server while the model is fetched, now without a fault.
    fn requests_of_next_try(&self) -> Vec<Request> {
        self.hub.take_requests();
        self.hub.set_fault(WEIGHTS, None);
        let folder = self.fetch(REPO).unwrap();
        assert_holds(&folder, &single_file(), &SINGLE_FILE_NAMES);
        self.hub.take_requests().1
    }

    fn incomplete(&self) -> std::path::PathBuf {
        self.in_cache(&format!("blobs/{}.incomplete", weights_etag()))
    }
}

fn weights_etag() -> String {
    etag(&single_file()[WEIGHTS])
}

#[test]
fn a_file_server_s_error_is_not_kept_as_weights() {
    for status in [403, 404, 500] {
        let (scene, error) = Scene::failing(Fault::Status(status));
        assert!(matches!(error, HubError::Status { .. }), "{error:?}");
        assert_says(&error, &[&status.to_string()]);
        scene.requests_of_next_try();
    }
}

#[test]
fn damaged_contents_are_removed_and_not_continued() {
    for fault in [Fault::OtherBytes, Fault::Shorter(1000)] {
        let (scene, error) = Scene::failing(fault);
        assert!(matches!(error, HubError::Damaged { .. }), "{error:?}");
        assert_says(&error, &["`model.safetensors`", "expected"]);
        assert!(!scene.incomplete().exists());
        let requests = scene.requests_of_next_try();
        assert!(requests.iter().all(|request| request.from.is_none()));
    }
}

#[test]
fn a_transfer_that_broke_off_is_continued_where_it_ended() {
    for fault in [Fault::CutAfter(100_000), Fault::SilentAfter(100_000)] {
        let (scene, error) = Scene::failing(fault);
        assert!(
            matches!(error, HubError::Cut { .. } | HubError::Stalled { .. }),
            "{error:?}"
        );
        assert_eq!(scene.incomplete().metadata().unwrap().len(), 100_000);
        let requests = scene.requests_of_next_try();
        assert_eq!(requests[0].from, Some(100_000), "{requests:?}");
        assert!(!scene.incomplete().exists());
    }
}

#[test]
fn silence_in_mid_file_is_given_up() {
    let (_, error) = Scene::failing(Fault::SilentAfter(10));
    assert!(matches!(error, HubError::Stalled { .. }), "{error:?}");
    assert_says(
        &error,
        &["`model.safetensors`", "`HF_HUB_DOWNLOAD_TIMEOUT`"],
    );
}

#[test]
fn a_server_without_parts_sends_the_whole_again() {
    let (scene, _) = Scene::failing(Fault::CutAfter(100_000));
    scene.hub.set_fault(WEIGHTS, Some(Fault::NoParts));
    let folder = scene.fetch(REPO).unwrap();
    assert_holds(&folder, &single_file(), &SINGLE_FILE_NAMES);
}

#[test]
fn a_part_of_something_else_is_found_out_and_removed() {
    let scene = Scene::new(single_file());
    fs::create_dir_all(scene.in_cache("blobs")).unwrap();
    fs::write(scene.incomplete(), [b'?'; 5000]).unwrap();
    let error = scene.fetch(REPO).unwrap_err();
    assert!(matches!(error, HubError::Damaged { .. }), "{error:?}");
    let requests = scene.requests_of_next_try();
    assert!(requests.iter().all(|request| request.from.is_none()));
}

#[test]
fn a_part_that_is_the_whole_costs_no_transfer() {
    let scene = Scene::new(single_file());
    fs::create_dir_all(scene.in_cache("blobs")).unwrap();
    fs::write(scene.incomplete(), bytes(&single_file()[WEIGHTS])).unwrap();
    assert!(scene.requests_of_next_try().is_empty());
}

#[test]
fn a_blob_that_another_process_downloads_is_waited_for() {
    let mut scene = Scene::new(single_file());
    let locks = scene.cache.path().join(".locks/models--org--tiny-model");
    fs::create_dir_all(&locks).unwrap();
    let lock = File::create(locks.join(format!("{}.lock", weights_etag()))).unwrap();
    lock.lock().unwrap();
    scene.settings.patience = Duration::from_millis(300);
    let error = scene.fetch(REPO).unwrap_err();
    assert!(matches!(error, HubError::Locked { .. }), "{error:?}");
    assert_says(&error, &["`org/tiny-model`", "`model.safetensors`"]);
    drop(lock);
    scene.fetch(REPO).unwrap();
}

#[test]
fn a_repository_s_old_name_leads_to_it_and_takes_the_token_along() {
    let scene = Scene::new(single_file()).with_token("hf_right");
    scene.hub.set_access(Access::Token("hf_right".to_owned()));
    scene.hub.set_old_name("org/old-name");
    let folder = scene.fetch("org/old-name").unwrap();
    assert_holds(&folder, &single_file(), &SINGLE_FILE_NAMES);
}

#[test]
fn the_token_does_not_follow_a_redirect_to_another_hub() {
    let scene = Scene::new(single_file()).with_token("hf_right");
    let other = FakeHub::start(REPO, vec![commit(COMMIT, &["main"], single_file())]);
    scene.hub.set_moved_to(&other.endpoint);
    let folder = scene.fetch(REPO).unwrap();
    assert_holds(&folder, &single_file(), &SINGLE_FILE_NAMES);
    let (of_other, of_file_server) = other.take_requests();
    assert!(!of_other.is_empty() && !of_file_server.is_empty());
    for request in of_other.iter().chain(&of_file_server) {
        assert_eq!(request.authorization, None, "{request:?}");
    }
    let (of_first, _) = scene.hub.take_requests();
    for request in of_first {
        let authorization = request.authorization.as_deref();
        assert_eq!(authorization, Some("Bearer hf_right"));
    }
}

#[test]
fn redirects_without_end_are_given_up() {
    let scene = Scene::new(single_file());
    scene.hub.set_moved_to(&scene.hub.endpoint);
    let error = scene.fetch(REPO).unwrap_err();
    assert!(matches!(error, HubError::Answer { .. }), "{error:?}");
}

#[test]
fn a_connection_that_ends_without_an_answer_is_tried_again_and_then_cut() {
    let mut scene = Scene::new(single_file());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    scene.settings.endpoint = format!("http://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        // Reads the request's first byte, so that the end is no refusal of the connection.
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            std::io::Read::read(&mut stream, &mut [0]).unwrap();
        }
    });
    let error = scene.fetch(REPO).unwrap_err();
    assert!(matches!(error, HubError::Cut { .. }), "{error:?}");
    server.join().unwrap();
}
