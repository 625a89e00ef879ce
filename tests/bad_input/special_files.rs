//! Pipes and devices in the place of files, directly or through a link: nothing waits for a pipe, and
//! nothing reads a device to an end that it doesn't have.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::common::reference::prepared_folder;
use crate::common::{assert_refused, limited, read_json, run};
use crate::spoilt::Spoilt;

/// Puts a pipe in the place of the file at `path`; nobody writes into it.
fn put_pipe(path: &Path) {
    let _ = fs::remove_file(path);
    let made = Command::new("mkfifo").arg(path).status();
    assert!(made.unwrap().success());
}

/// Puts a link to an endless device in the place of the file at `path`.
fn put_device(path: &Path) {
    let _ = fs::remove_file(path);
    symlink("/dev/zero", path).unwrap();
}

/// What stands in the place of a file, and what the message calls it.
type Stand = (fn(&Path), &'static str);
const STANDS: [Stand; 2] = [(put_pipe, "a pipe"), (put_device, "a device")];

#[test]
fn a_base_s_files_are_not_waited_for() {
    for (put, kind) in STANDS {
        let trial = Spoilt::new("llama-gqa", "lora");
        put(&trial.base_config());
        trial.base_refused(&["config.json", "cannot read", kind]);
        let trial = Spoilt::new("llama-gqa", "lora");
        put(&trial.base_weights());
        trial.base_refused(&["model.safetensors", "cannot read", kind]);
        let trial = Spoilt::new("llama-gqa", "lora");
        put(&trial.base.join("tokenizer.json"));
        let outcome = trial.generate(&["--prompt", "The adapter."]);
        assert_refused(&outcome, &["tokenizer"]);
    }
}

#[test]
fn a_shard_that_is_no_file_is_refused() {
    for (put, kind) in STANDS {
        let trial = Spoilt::new("llama-linear", "lora");
        let index = trial.base.join("model.safetensors.index.json");
        let map = read_json(&index)["weight_map"].clone();
        let shard = map.as_object().unwrap().values().next().unwrap().clone();
        let shard = shard.as_str().unwrap();
        put(&trial.base.join(shard));
        trial.base_refused(&[shard, "cannot read", kind]);
        put(&index);
        trial.base_refused(&["index.json", "cannot read", kind]);
    }
}

#[test]
fn an_adapter_s_files_are_not_waited_for() {
    for (put, kind) in STANDS {
        let trial = Spoilt::new("llama-gqa", "lora");
        put(&trial.adapter_config());
        trial.adapter_refused(&["adapter_config.json", "cannot read", kind]);
        let trial = Spoilt::new("llama-gqa", "lora");
        put(&trial.weights());
        trial.adapter_refused(&["adapter_model.safetensors", "cannot read", kind]);
        // An expert in a folder of its own.
        let trial = Spoilt::new("llama-gqa", "xlora");
        let expert = trial.experiment.join("expert_1/adapter_config.json");
        put(&expert);
        let outcome = trial.prepare(&["--variant", "unmerged"]);
        trial.refused(&outcome, &["expert_1", "cannot read", kind]);
    }
}

#[test]
fn what_somebody_names_may_be_a_pipe_but_not_without_an_end() {
    let trial = Spoilt::new("llama-gqa", "lora");
    for option in ["--config", "--prompts"] {
        let mut command = trial.command(&["measure", option, "/dev/zero"]);
        command
            .arg(&trial.experiment)
            .arg("--model")
            .arg(&trial.base);
        let outcome = run(command.current_dir(trial.root.path()));
        assert_refused(&outcome, &["/dev/zero", "64 MiB"]);
    }
    let spec = trial.root.path().join("spec.json");
    put_device(&spec);
    let outcome = run(limited(["sweep", "plan"])
        .arg(&spec)
        .current_dir(trial.root.path()));
    assert_refused(&outcome, &["spec.json", "64 MiB"]);
    let outcome = run(&mut limited(["report", "/dev/zero"]));
    assert_refused(&outcome, &["/dev/zero", "64 MiB"]);
}

#[test]
fn a_pipe_among_results_is_none() {
    let folder = tempfile::tempdir().unwrap();
    put_pipe(&folder.path().join("a.json"));
    put_device(&folder.path().join("b.json"));
    let outcome = run(limited(["report"]).arg(folder.path()));
    assert_refused(&outcome, &["there are no results"]);
    let outcome = run(limited(["compare"]).args([folder.path(), folder.path()]));
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert!(
        outcome.stderr.contains("there are no results"),
        "{outcome:?}"
    );
}

#[test]
fn a_prepared_folder_with_a_pipe_or_files_elsewhere_is_refused() {
    for (put, kind) in STANDS {
        let trial = Spoilt::new("llama-gqa", "lora");
        let made = prepared_folder(&trial.exported);
        put(&made.join("unmerged/manifest.json"));
        let outcome = run(trial
            .command(&["generate", "--prompt-ids", "1,2"])
            .arg(made.join("unmerged")));
        assert_refused(&outcome, &["manifest.json", kind]);
    }
    for name in ["../secret", "/dev/zero"] {
        let trial = Spoilt::new("llama-gqa", "lora");
        let made = prepared_folder(&trial.exported).join("unmerged");
        let path = made.join("manifest.json");
        let mut manifest = read_json(&path);
        manifest["portable"] = json!({
            "files": { name: { "bytes": 0, "sha256": "00" } }, "sample": null, "checks": [],
        });
        fs::write(&path, manifest.to_string()).unwrap();
        for command in [&["verify"][..], &["generate", "--prompt-ids", "1,2"]] {
            let outcome = run(trial.command(command).arg(&made));
            assert_refused(&outcome, &["manifest.json", name, "inside its folder"]);
        }
    }
}
