//! Fetching a base model from a hub on the loopback interface, into a cache in a temporary folder.

#![expect(clippy::unwrap_used, reason = "a test may unwrap")]

#[path = "../common/mod.rs"]
mod common;

mod adapters;
mod fake_hub;
mod hostile;
mod transfers;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    time::Duration,
};

use fake_hub::{Access, Commit, Contents, FakeHub, Fault, etag};
use peft_bench::model::hub::{DownloadProgress, HubError, HubId, HubSettings, fetch};
use tempfile::TempDir;

const REPO: &str = "org/tiny-model";
const FOLDER: &str = "models--org--tiny-model";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const NEXT_COMMIT: &str = "89abcdef0123456789abcdef0123456789abcdef";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

fn small(text: &str) -> Contents {
    Contents::Small(text.as_bytes().to_vec())
}

fn large(seed: u8) -> Contents {
    Contents::Large(
        (0..300_000_u32)
            .map(|index| (index % 251) as u8 ^ seed)
            .collect(),
    )
}

fn bytes(contents: &Contents) -> &[u8] {
    match contents {
        Contents::Small(bytes) | Contents::Large(bytes) => bytes,
    }
}

type Files = BTreeMap<String, Contents>;

fn files(entries: &[(&str, Contents)]) -> Files {
    entries
        .iter()
        .map(|(name, contents)| ((*name).to_owned(), contents.clone()))
        .collect()
}

/// A repository with weights in one file, and with files that aren't needed.
fn single_file() -> Files {
    files(&[
        ("config.json", small(r#"{"model_type": "llama"}"#)),
        ("tokenizer.json", small(r#"{"version": "1.0"}"#)),
        ("tokenizer_config.json", small("{}")),
        ("generation_config.json", small(r#"{"eos_token_id": 2}"#)),
        (WEIGHTS, large(1)),
        ("README.md", small("# A model")),
        ("pytorch_model.bin", large(9)),
    ])
}

fn sharded() -> Files {
    let index = r#"{"metadata": {"total_size": 2}, "weight_map": {
        "lm_head.weight": "model-00002-of-00002.safetensors",
        "model.embed_tokens.weight": "model-00001-of-00002.safetensors",
        "model.norm.weight": "model-00002-of-00002.safetensors"}}"#;
    files(&[
        ("config.json", small("{}")),
        ("tokenizer.json", small("{ }")),
        (INDEX, small(index)),
        ("model-00001-of-00002.safetensors", large(1)),
        ("model-00002-of-00002.safetensors", large(2)),
        ("consolidated.safetensors", large(3)),
    ])
}

fn commit(hash: &str, revisions: &[&str], files: Files) -> Commit {
    Commit {
        hash: hash.to_owned(),
        revisions: revisions.iter().map(|name| (*name).to_owned()).collect(),
        files,
    }
}

/// A hub, and an initially empty cache.
struct Scene {
    hub: FakeHub,
    cache: TempDir,
    settings: HubSettings,
}

impl Scene {
    fn new(files: Files) -> Scene {
        let hub = FakeHub::start(REPO, vec![commit(COMMIT, &["main"], files)]);
        let cache = tempfile::tempdir().unwrap();
        let settings = HubSettings {
            endpoint: hub.endpoint.clone(),
            cache_dir: cache.path().to_owned(),
            token: None,
            offline: false,
            patience: Duration::from_secs(60),
        };
        Scene {
            hub,
            cache,
            settings,
        }
    }

    fn with_token(mut self, token: &str) -> Scene {
        self.settings.token = Some(token.to_owned());
        self
    }

    fn fetch(&self, id: &str) -> Result<PathBuf, HubError> {
        fetch(&HubId::parse(id).unwrap(), &self.settings, &|_| {})
    }

    fn fetch_offline(&self, id: &str) -> Result<PathBuf, HubError> {
        let settings = HubSettings {
            offline: true,
            ..self.settings.clone()
        };
        fetch(&HubId::parse(id).unwrap(), &settings, &|_| {})
    }

    /// The number of requests since the last call, and the requested files.
    fn requested_files(&self) -> (usize, Vec<String>) {
        let (hub, file_server) = self.hub.take_requests();
        let mut names: Vec<String> = hub
            .iter()
            .filter_map(|request| request.path.split_once("/resolve/"))
            .map(|(_, rest)| rest.split_once('/').unwrap().1.to_owned())
            .collect();
        names.sort();
        names.dedup();
        (hub.len() + file_server.len(), names)
    }

    fn in_cache(&self, path: &str) -> PathBuf {
        self.cache.path().join(FOLDER).join(path)
    }

    /// The names of all complete blobs.
    fn blobs(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.in_cache("blobs")) else {
            return Vec::new();
        };
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.ends_with(".incomplete"))
            .collect()
    }
}

fn assert_holds(folder: &Path, files: &Files, names: &[&str]) {
    for name in names {
        assert!(
            fs::read(folder.join(name)).unwrap() == bytes(&files[*name]),
            "{name}"
        );
    }
    let mut found: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let mut expected = names.to_vec();
    found.sort();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

/// Checks that an error's message is one line that contains all `parts`.
fn assert_says(error: &HubError, parts: &[&str]) {
    let message = error.to_string();
    assert!(!message.contains('\n'), "{message}");
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

const SINGLE_FILE_NAMES: [&str; 5] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    WEIGHTS,
];

#[test]
fn a_model_in_one_file_is_fetched_with_only_the_files_it_needs() {
    let scene = Scene::new(single_file());
    let folder = scene.fetch(REPO).unwrap();
    assert_holds(&folder, &single_file(), &SINGLE_FILE_NAMES);
}

#[test]
fn the_cache_has_the_layout_of_huggingface_hub() {
    let scene = Scene::new(single_file());
    let folder = scene.fetch(REPO).unwrap();
    assert_eq!(folder, scene.in_cache(&format!("snapshots/{COMMIT}")));
    assert_eq!(
        fs::read_to_string(scene.in_cache("refs/main")).unwrap(),
        COMMIT
    );
    let blob = etag(&single_file()[WEIGHTS]);
    assert_eq!(
        fs::read_link(folder.join(WEIGHTS)).unwrap(),
        Path::new("../../blobs").join(&blob)
    );
    assert!(scene.in_cache("blobs").join(blob).is_file());
}

#[test]
fn a_model_in_shards_is_fetched_with_every_shard_that_the_index_names() {
    let scene = Scene::new(sharded());
    let folder = scene.fetch(REPO).unwrap();
    let names = [
        "config.json",
        "tokenizer.json",
        INDEX,
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ];
    assert_holds(&folder, &sharded(), &names);
    assert_eq!(scene.fetch_offline(REPO).unwrap(), folder);
}

#[test]
fn a_model_without_a_tokenizer_is_complete_without_one() {
    let mut files = single_file();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        files.remove(name);
    }
    let names = ["config.json", "generation_config.json", WEIGHTS];
    let scene = Scene::new(files.clone());
    let folder = scene.fetch(REPO).unwrap();
    assert_holds(&folder, &files, &names);
    // Files that the listing lacks aren't requested.
    assert_eq!(scene.requested_files().1, names);
    assert_eq!(scene.fetch(REPO).unwrap(), folder);
    assert_eq!(scene.requested_files(), (1, Vec::new()));
    assert_eq!(scene.fetch_offline(REPO).unwrap(), folder);
    assert_eq!(scene.requested_files().0, 0);
}

#[test]
fn every_file_of_a_tokenizer_that_exists_is_fetched() {
    let mut files = single_file();
    files.remove("tokenizer.json");
    let of_tokenizer = [
        "tokenizer.model",
        "vocab.json",
        "merges.txt",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
    ];
    for name in of_tokenizer {
        files.insert(name.to_owned(), small(name));
    }
    let scene = Scene::new(files.clone());
    let folder = scene.fetch(REPO).unwrap();
    let others = [
        "config.json",
        "tokenizer_config.json",
        "generation_config.json",
        WEIGHTS,
    ];
    assert_holds(&folder, &files, &[&of_tokenizer[..], &others].concat());
}

#[test]
fn cached_files_are_not_downloaded_again() {
    let scene = Scene::new(single_file());
    let folder = scene.fetch(REPO).unwrap();
    scene.requested_files();
    assert_eq!(scene.fetch(REPO).unwrap(), folder);
    assert_eq!(scene.requested_files(), (1, Vec::new()));

    fs::remove_file(folder.join("config.json")).unwrap();
    scene.fetch(REPO).unwrap();
    assert_eq!(scene.requested_files().1, ["config.json"]);
}

#[test]
fn offline_a_warm_cache_needs_no_request() {
    let scene = Scene::new(single_file());
    let folder = scene.fetch(REPO).unwrap();
    scene.requested_files();
    assert_eq!(scene.fetch_offline(REPO).unwrap(), folder);
    assert_eq!(scene.requested_files().0, 0);
}

#[test]
fn offline_a_cold_cache_is_an_error_that_names_repository_and_file() {
    let scene = Scene::new(single_file());
    let error = scene.fetch_offline("org/tiny-model@v2").unwrap_err();
    assert!(matches!(error, HubError::Offline { .. }), "{error:?}");
    assert_says(
        &error,
        &[
            "`config.json`",
            "`org/tiny-model`",
            "`v2`",
            "`--offline`",
            "`HF_HUB_OFFLINE`",
        ],
    );
    assert_eq!(scene.requested_files().0, 0);
}

#[test]
fn offline_the_file_that_is_missing_is_named() {
    let scene = Scene::new(sharded());
    let folder = scene.fetch(REPO).unwrap();
    for name in ["model-00002-of-00002.safetensors", "config.json"] {
        fs::remove_file(folder.join(name)).unwrap();
        let error = scene.fetch_offline(REPO).unwrap_err();
        assert!(
            matches!(&error, HubError::Offline { file, .. } if file == name),
            "{error:?}"
        );
    }
}

#[cfg(unix)]
#[test]
fn a_cache_that_python_has_filled_is_used_as_it_is() {
    let scene = Scene::new(single_file());
    let snapshot = scene.in_cache("snapshots").join(COMMIT);
    for folder in [&scene.in_cache("blobs"), &scene.in_cache("refs"), &snapshot] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(scene.in_cache("refs/main"), COMMIT).unwrap();
    for name in SINGLE_FILE_NAMES {
        let contents = &single_file()[name];
        fs::write(
            scene.in_cache("blobs").join(etag(contents)),
            bytes(contents),
        )
        .unwrap();
        std::os::unix::fs::symlink(
            format!("../../blobs/{}", etag(contents)),
            snapshot.join(name),
        )
        .unwrap();
    }

    assert_eq!(scene.fetch_offline(REPO).unwrap(), snapshot);
    assert_eq!(scene.requested_files().0, 0);
    assert_eq!(scene.fetch(REPO).unwrap(), snapshot);
    assert_eq!(scene.requested_files(), (1, Vec::new()));
}

#[test]
fn a_link_whose_blob_is_gone_is_fetched_again() {
    let scene = Scene::new(single_file());
    let folder = scene.fetch(REPO).unwrap();
    fs::remove_file(fs::canonicalize(folder.join(WEIGHTS)).unwrap()).unwrap();
    assert!(
        matches!(scene.fetch_offline(REPO), Err(HubError::Offline { file, .. }) if file == WEIGHTS)
    );
    scene.fetch(REPO).unwrap();
    assert_holds(&folder, &single_file(), &SINGLE_FILE_NAMES);
}

#[test]
fn a_new_commit_brings_only_the_contents_that_changed() {
    let scene = Scene::new(single_file());
    let old = scene.fetch(REPO).unwrap();
    scene.hub.take_requests();

    let mut changed = single_file();
    changed.insert(
        "config.json".to_owned(),
        small(r#"{"model_type": "olmo2"}"#),
    );
    scene
        .hub
        .set_commits(vec![commit(NEXT_COMMIT, &["main"], changed.clone())]);
    let new = scene.fetch(REPO).unwrap();
    let (_, file_server) = scene.hub.take_requests();
    assert!(
        file_server.is_empty(),
        "the weights were fetched again: {file_server:?}"
    );
    assert_holds(&new, &changed, &SINGLE_FILE_NAMES);
    assert_holds(&old, &single_file(), &SINGLE_FILE_NAMES);
    assert_eq!(
        fs::read_to_string(scene.in_cache("refs/main")).unwrap(),
        NEXT_COMMIT
    );
}

#[test]
fn a_revision_is_a_branch_or_a_tag() {
    let scene = Scene::new(single_file());
    scene.hub.set_commits(vec![
        commit(COMMIT, &["main"], single_file()),
        commit(NEXT_COMMIT, &["v1", "refs/pr/3"], sharded()),
    ]);
    let folder = scene.fetch("org/tiny-model@refs/pr/3").unwrap();
    assert!(folder.ends_with(NEXT_COMMIT) && folder.join(INDEX).is_file());
    assert_eq!(
        fs::read_to_string(scene.in_cache("refs/refs/pr/3")).unwrap(),
        NEXT_COMMIT
    );
    assert_eq!(
        scene.fetch_offline("org/tiny-model@refs/pr/3").unwrap(),
        folder
    );
    assert!(matches!(
        scene.fetch_offline("org/tiny-model@v1"),
        Err(HubError::Offline { .. })
    ));
}

#[test]
fn a_commit_hash_that_the_cache_holds_needs_no_request() {
    let scene = Scene::new(single_file());
    let id = format!("{REPO}@{COMMIT}");
    let folder = scene.fetch(&id).unwrap();
    scene.requested_files();
    assert_eq!(scene.fetch(&id).unwrap(), folder);
    assert_eq!(scene.requested_files().0, 0);
    assert!(!scene.in_cache("refs").exists());

    // Another program may have fetched the model without its tokenizer.
    fs::remove_file(folder.join("tokenizer.json")).unwrap();
    assert_eq!(scene.fetch(&id).unwrap(), folder);
    assert_eq!(scene.requested_files().1, ["tokenizer.json"]);
}

#[test]
fn progress_ends_with_the_whole_of_each_file() {
    let scene = Scene::new(single_file());
    let seen = RefCell::new(Vec::new());
    fetch(&HubId::parse(REPO).unwrap(), &scene.settings, &|progress| {
        seen.borrow_mut().push(progress)
    })
    .unwrap();
    for name in SINGLE_FILE_NAMES {
        let size = bytes(&single_file()[name]).len() as u64;
        let last = seen
            .borrow()
            .iter()
            .rfind(|progress| progress.file == name)
            .cloned();
        let whole = DownloadProgress {
            file: name.to_owned(),
            done_bytes: size,
            total_bytes: size,
        };
        assert_eq!(last, Some(whole));
    }
}

#[test]
fn the_token_goes_to_the_hub_and_not_to_the_file_server() {
    let scene = Scene::new(single_file()).with_token("hf_right");
    scene.hub.set_access(Access::Token("hf_right".to_owned()));
    scene.fetch(REPO).unwrap();
    let (hub, file_server) = scene.hub.take_requests();
    assert!(
        hub.iter()
            .all(|request| request.authorization.as_deref() == Some("Bearer hf_right")),
        "{hub:?}"
    );
    assert!(!file_server.is_empty());
    assert!(
        file_server
            .iter()
            .all(|request| request.authorization.is_none()),
        "{file_server:?}"
    );
}

#[test]
fn without_a_token_none_is_sent() {
    let scene = Scene::new(single_file());
    scene.fetch(REPO).unwrap();
    let (hub, _) = scene.hub.take_requests();
    assert!(
        hub.iter().all(|request| request.authorization.is_none()),
        "{hub:?}"
    );
}

#[test]
fn a_missing_token_and_a_wrong_one_give_different_errors() {
    let scene = Scene::new(single_file());
    scene.hub.set_access(Access::Token("hf_right".to_owned()));
    let error = scene.fetch(REPO).unwrap_err();
    assert!(matches!(error, HubError::TokenMissing { .. }), "{error:?}");
    assert_says(&error, &["`org/tiny-model`", "`HF_TOKEN`"]);

    let scene = scene.with_token("hf_wrong");
    let error = scene.fetch(REPO).unwrap_err();
    assert!(matches!(error, HubError::TokenRejected { .. }), "{error:?}");
    assert_says(&error, &["`org/tiny-model`", "`HF_TOKEN`"]);
    assert!(!error.to_string().contains("hf_wrong"));
}

#[test]
fn a_token_that_no_request_can_carry_is_refused_before_any_request() {
    let scene = Scene::new(single_file()).with_token("hf_one hf_two");
    let error = scene.fetch(REPO).unwrap_err();
    assert!(matches!(error, HubError::TokenMalformed), "{error:?}");
    assert_says(&error, &["`HF_TOKEN`"]);
    assert_eq!(scene.requested_files().0, 0);
}

#[test]
fn a_gated_model_leads_to_its_licence() {
    for status in [401, 403] {
        let scene = Scene::new(single_file()).with_token("hf_any");
        scene.hub.set_access(Access::Gated(status));
        let error = scene.fetch(REPO).unwrap_err();
        assert!(
            matches!(error, HubError::Gated { .. }),
            "{status}: {error:?}"
        );
        assert_says(
            &error,
            &[
                "`org/tiny-model`",
                "licence",
                &format!("{}/org/tiny-model", scene.hub.endpoint),
            ],
        );
    }
}

#[test]
fn a_403_without_a_gate_asks_for_the_right_to_read() {
    let scene = Scene::new(single_file()).with_token("hf_any");
    scene.hub.set_access(Access::Forbidden);
    let error = scene.fetch(REPO).unwrap_err();
    assert!(matches!(error, HubError::Forbidden { .. }), "{error:?}");
    assert_says(&error, &["`org/tiny-model`", "`HF_TOKEN`"]);
}

#[test]
fn a_missing_repository_revision_or_file_is_named() {
    let scene = Scene::new(single_file());
    let error = scene.fetch("org/other").unwrap_err();
    assert!(matches!(error, HubError::RepoNotFound { .. }), "{error:?}");
    assert_says(&error, &["`org/other`", "check the name"]);

    let error = scene.fetch("org/tiny-model@v9").unwrap_err();
    assert!(
        matches!(error, HubError::RevisionNotFound { .. }),
        "{error:?}"
    );
    assert_says(
        &error,
        &["`org/tiny-model`", "`v9`", "/org/tiny-model/commits"],
    );

    let mut files = single_file();
    files.remove("config.json");
    let error = Scene::new(files).fetch(REPO).unwrap_err();
    assert!(matches!(error, HubError::FileNotFound { .. }), "{error:?}");
    assert_says(&error, &["`org/tiny-model`", "`main`", "`config.json`"]);
}

#[test]
fn a_shard_that_the_repository_lacks_is_named() {
    let mut files = sharded();
    files.remove("model-00002-of-00002.safetensors");
    let error = Scene::new(files).fetch(REPO).unwrap_err();
    assert!(matches!(error, HubError::FileNotFound { .. }), "{error:?}");
    assert_says(&error, &["`model-00002-of-00002.safetensors`"]);
}

#[test]
fn a_shard_outside_the_repository_is_refused_and_nothing_is_written_there() {
    for name in ["../../../../stolen", "/tmp/stolen"] {
        let mut files = sharded();
        files.insert(
            INDEX.to_owned(),
            small(&format!(r#"{{"weight_map": {{"a": "{name}"}}}}"#)),
        );
        files.insert(name.to_owned(), large(4));
        let scene = Scene::new(files);
        let error = scene.fetch(REPO).unwrap_err();
        assert!(
            matches!(&error, HubError::ShardName { file, .. } if file == name),
            "{error:?}"
        );
        assert!(
            !scene
                .requested_files()
                .1
                .iter()
                .any(|file| file.contains("stolen"))
        );
    }
}

#[test]
fn weights_of_another_format_are_an_error_that_asks_for_safetensors() {
    let mut files = single_file();
    files.remove(WEIGHTS);
    let scene = Scene::new(files);
    let error = scene.fetch(REPO).unwrap_err();
    assert!(matches!(error, HubError::NoSafetensors { .. }), "{error:?}");
    assert_says(
        &error,
        &[
            "`org/tiny-model`",
            "`pytorch_model.bin`",
            "safetensors are needed",
        ],
    );
    assert_eq!(scene.requested_files(), (1, Vec::new()));
}

#[test]
fn a_connection_cut_in_mid_file_leaves_nothing_broken_and_the_next_try_succeeds() {
    for (file, sent) in [(WEIGHTS, 100_000), ("config.json", 5)] {
        let scene = Scene::new(single_file());
        scene.hub.set_fault(file, Some(Fault::CutAfter(sent)));
        let error = scene.fetch(REPO).unwrap_err();
        assert!(matches!(error, HubError::Cut { .. }), "{error:?}");
        assert_says(&error, &["`org/tiny-model`", &format!("`{file}`"), "again"]);

        assert!(!scene.blobs().contains(&etag(&single_file()[file])));
        assert!(!scene.in_cache("refs/main").exists());
        assert!(matches!(
            scene.fetch_offline(REPO),
            Err(HubError::Offline { .. })
        ));

        scene.hub.set_fault(file, None);
        let folder = scene.fetch(REPO).unwrap();
        assert_holds(&folder, &single_file(), &SINGLE_FILE_NAMES);
    }
}

#[test]
fn an_endpoint_without_a_server_is_reported_as_unreachable() {
    let mut scene = Scene::new(single_file());
    let unused = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    scene.settings.endpoint = format!("http://{unused}");
    let error = scene.fetch(REPO).unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error:?}");
    assert_says(
        &error,
        &[
            "`org/tiny-model`",
            &unused.to_string(),
            "`HF_ENDPOINT`",
            "`--offline`",
        ],
    );
}

#[test]
fn an_endpoint_that_never_answers_is_given_up() {
    let mut scene = Scene::new(single_file());
    // The system accepts the connection, but nothing reads from it.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    scene.settings.endpoint = format!("http://{}", silent.local_addr().unwrap());
    scene.settings.patience = Duration::from_millis(300);
    let error = scene.fetch(REPO).unwrap_err();
    assert!(matches!(error, HubError::Stalled { .. }), "{error:?}");
    assert_says(&error, &["`org/tiny-model`", "`HF_HUB_DOWNLOAD_TIMEOUT`"]);
}

#[test]
fn an_endpoint_that_is_no_url_is_refused() {
    let mut scene = Scene::new(single_file());
    scene.settings.endpoint = "not a hub".to_owned();
    let error = scene.fetch(REPO).unwrap_err();
    assert!(matches!(error, HubError::Endpoint { .. }), "{error:?}");
    assert_says(&error, &["`not a hub`", "`HF_ENDPOINT`"]);
}

#[test]
fn failures_of_the_hub_itself_give_different_errors() {
    let scene = Scene::new(single_file());
    scene.hub.set_listing_status(429);
    let error = scene.fetch(REPO).unwrap_err();
    assert!(matches!(error, HubError::RateLimited { .. }), "{error:?}");
    assert_says(&error, &["`org/tiny-model`", "wait"]);

    scene.hub.set_listing_status(503);
    scene.requested_files();
    let error = scene.fetch(REPO).unwrap_err();
    assert_eq!(scene.requested_files().0, 2, "one more try");
    assert!(matches!(error, HubError::Status { .. }), "{error:?}");
    assert_says(&error, &["`org/tiny-model`", "503"]);

    // A page of another server, such as the login page of a public network.
    scene.hub.set_listing_status(200);
    let error = scene.fetch(REPO).unwrap_err();
    assert!(matches!(error, HubError::Answer { .. }), "{error:?}");
    assert_says(&error, &["`org/tiny-model`", "`HF_ENDPOINT`"]);
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let mut scene = Scene::new(single_file());
    let file = scene.cache.path().join("file");
    fs::write(&file, "not a folder").unwrap();
    scene.settings.cache_dir = file.clone();
    let error = scene.fetch(REPO).unwrap_err();
    assert!(matches!(error, HubError::Cache { .. }), "{error:?}");
    assert_says(&error, &[file.to_str().unwrap(), "`HF_HUB_CACHE`"]);
}
