//! Adapters from the hub, with the built program.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::common::{Outcome, assert_refused, case, model, names, program, run};
use crate::fake_hub::{Commit, Contents, FakeHub};
use crate::{COMMIT, commit, small};

const REPO: &str = "org/adapter";

struct Scene {
    hub: FakeHub,
    folder: TempDir,
}

impl Scene {
    fn new(files: Vec<(String, Contents)>) -> Self {
        let all: Commit = commit(COMMIT, &["main", "v2"], files.into_iter().collect());
        let folder = tempfile::tempdir().unwrap();
        // The adapter names its base by a path relative to the working folder.
        std::os::unix::fs::symlink(model(""), folder.path().join("models")).unwrap();
        Self {
            hub: FakeHub::start(REPO, vec![all]),
            folder,
        }
    }

    fn generate(&self, target: &str, more: &[&str]) -> Outcome {
        let mut command = program(["generate", "--ep", "cpu", "--threads", "1"]);
        command.args([
            "--prompt-ids",
            "3,1,4,1,5,9",
            "--max-new-tokens",
            "4",
            target,
        ]);
        self.run(command.args(more))
    }

    fn run(&self, command: &mut Command) -> Outcome {
        run(command
            .current_dir(self.folder.path())
            .env("HF_ENDPOINT", &self.hub.endpoint)
            .env("HF_HUB_CACHE", self.folder.path().join("hub"))
            .env("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"))
    }

    fn snapshot(&self) -> PathBuf {
        let snapshots = "hub/models--org--adapter/snapshots";
        self.folder.path().join(snapshots).join(COMMIT)
    }
}

/// The files of a folder, except `left_out`.
fn files_of(folder: &Path, left_out: &[&str]) -> Vec<(String, Contents)> {
    let names = names(folder).into_iter();
    names
        .filter(|name| folder.join(name).is_file() && !left_out.contains(&name.as_str()))
        .map(|name| {
            let bytes = fs::read(folder.join(&name)).unwrap();
            (name, Contents::Large(bytes))
        })
        .collect()
}

fn adapter() -> Vec<(String, Contents)> {
    files_of(
        &case("llama-gqa", "lora"),
        &["expected.safetensors", "case.json"],
    )
}

#[test]
fn a_hub_id_is_an_adapter_and_runs_on_the_base_that_it_names() {
    let mut files = adapter();
    files.push(("README.md".to_owned(), small("# An adapter")));
    files.push(("tokenizer_config.json".to_owned(), small("{}")));
    files.push(("optimizer.pt".to_owned(), small("state")));
    let scene = Scene::new(files);
    let expected = scene.generate(case("llama-gqa", "lora").to_str().unwrap(), &[]);
    assert_eq!(expected.code, Some(0), "{expected:?}");
    for target in [REPO, "org/adapter@v2"] {
        let found = scene.generate(target, &[]);
        assert_eq!(found.stdout, expected.stdout, "{found:?}");
    }
    assert_eq!(
        names(&scene.snapshot()),
        [
            "adapter_config.json",
            "adapter_model.safetensors",
            "tokenizer_config.json"
        ]
    );
    // From the cache, by id and by the path of the snapshot, whose files are links.
    scene.hub.take_requests();
    let offline = scene.generate(REPO, &["--offline"]);
    assert_eq!(offline.stdout, expected.stdout, "{offline:?}");
    let snapshot = scene.generate(scene.snapshot().to_str().unwrap(), &["--offline"]);
    assert_eq!(snapshot.stdout, expected.stdout, "{snapshot:?}");
    assert!(scene.hub.take_requests().0.is_empty());
    let exported = scene.folder.path().join("exported_models");
    let of_model = exported.join(&names(&exported)[0]);
    assert!(
        names(&of_model)
            .iter()
            .any(|name| name.starts_with("lora--org--adapter"))
    );
}

#[test]
fn an_existing_folder_wins_over_a_hub_id() {
    let scene = Scene::new(adapter());
    crate::common::copy_folder(&case("llama-gqa", "lora"), &scene.folder.path().join(REPO));
    let local = scene.generate(REPO, &[]);
    assert_eq!(local.code, Some(0), "{local:?}");
    assert!(scene.hub.take_requests().0.is_empty());
    // A mistyped path isn't requested from the hub either, unless a revision shows that it's an id.
    assert_refused(
        &scene.generate("org/adaptr", &[]),
        &["did you mean `org/adapter`"],
    );
    assert!(scene.hub.take_requests().0.is_empty());
}

#[test]
fn an_adapter_without_safetensors_is_refused_with_the_command_that_converts_it() {
    let mut files = adapter();
    files.retain(|(name, _)| name == "adapter_config.json");
    files.push(("adapter_model.bin".to_owned(), small("pickle")));
    let scene = Scene::new(files);
    let outcome = scene.generate(REPO, &[]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    for words in [
        "`adapter_model.bin`",
        "hf download org/adapter",
        "torch.load",
        "`--fresh`",
    ] {
        assert!(outcome.stderr.contains(words), "{words}: {outcome:?}");
    }
    let fresh = scene.generate(REPO, &["--fresh"]);
    assert_eq!(fresh.code, Some(0), "{fresh:?}");
    assert!(fresh.stderr.contains("drawn fresh"), "{fresh:?}");
}

#[test]
fn a_repository_that_holds_a_model_is_a_checkpoint() {
    let mut files = files_of(&model("llama-gqa"), &[]);
    let config = case("llama-gqa", "lora").join("adapter_config.json");
    files.push((
        "adapter_config.json".to_owned(),
        Contents::Small(fs::read(config).unwrap()),
    ));
    let scene = Scene::new(files);
    let expected = scene.generate(model("llama-gqa").to_str().unwrap(), &[]);
    let found = scene.generate(REPO, &[]);
    assert_eq!(found.code, Some(0), "{found:?}");
    assert_eq!(found.stdout, expected.stdout);
}

#[test]
fn a_base_without_a_tokenizer_takes_ids_and_refuses_text() {
    let tokenizer = ["tokenizer.json", "tokenizer_config.json"];
    let files = files_of(&model("llama-gqa"), &tokenizer);
    let scene = Scene::new(files);
    let adapter = case("llama-gqa", "lora");
    let adapter = adapter.to_str().unwrap();
    let bare = crate::common::copy_folder(&model("llama-gqa"), &scene.folder.path().join("bare"));
    for name in tokenizer {
        fs::remove_file(bare.join(name)).unwrap();
    }
    let expected = scene.generate(adapter, &["--model", "bare"]);
    assert_eq!(expected.code, Some(0), "{expected:?}");
    let found = scene.generate(adapter, &["--model", REPO]);
    assert_eq!(found.stdout, expected.stdout, "{found:?}");

    scene.hub.take_requests();
    let offline = scene.generate(adapter, &["--model", REPO, "--offline"]);
    assert_eq!(offline.stdout, expected.stdout, "{offline:?}");
    assert!(scene.hub.take_requests().0.is_empty());

    let mut command = program(["generate", "--ep", "cpu", "--prompt", "a", "--offline"]);
    let text = scene.run(command.args(["--model", REPO, adapter]));
    assert_refused(&text, &["has no tokenizer", "`tokenizer.json`"]);
    assert!(scene.hub.take_requests().0.is_empty());
}

#[test]
fn the_environment_s_proxy_is_used_unless_the_host_needs_none() {
    let scene = Scene::new(adapter());
    let unused = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = format!("http://{}", unused.local_addr().unwrap());
    drop(unused);
    let with_proxy = |no_proxy: &str| {
        let mut command = program(["generate", "--ep", "cpu", "--prompt-ids", "3", REPO]);
        scene.run(command.env("HTTP_PROXY", &proxy).env("NO_PROXY", no_proxy))
    };
    assert_refused(&with_proxy("elsewhere"), &["cannot reach"]);
    assert!(scene.hub.take_requests().0.is_empty());
    let direct = with_proxy("127.0.0.1");
    assert_eq!(direct.code, Some(0), "{direct:?}");
}

#[test]
fn adapters_in_subfolders_of_a_repository_are_named() {
    let files = adapter().into_iter();
    let scene = Scene::new(
        files
            .map(|(name, file)| (format!("second/{name}"), file))
            .collect(),
    );
    assert_refused(
        &scene.generate(REPO, &[]),
        &[
            "`org/adapter`",
            "`second`",
            "hf download",
            "`adapter/second`",
        ],
    );
}
