//! The base that an adapter runs on if none is given, and how a folder is taken that could be
//! several things.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::common::trial::{CONFIG, Trial, WEIGHTS};
use crate::common::{
    Outcome, assert_refused, copy_folder, model, program, read_json, read_tensors, run, set_key,
    write_tensors,
};
use peft_bench::weights::Dtype;

/// `generate` without `--model`, in the trial's folder.
fn generate(trial: &Trial, target: &Path, more: &[&str]) -> Outcome {
    let mut command = command(trial, "generate");
    command.args(["--prompt-ids", "3,1,4,1,5,9", "--max-new-tokens", "4"]);
    run(command.arg(target).args(more))
}

fn command(trial: &Trial, name: &str) -> Command {
    let mut command = program([name, "--ep", "cpu", "--threads", "1", "--offline"]);
    command
        .args(["--export-dir", "exported"])
        .current_dir(trial.root.path())
        .env("HF_HUB_CACHE", trial.root.path().join("hub"));
    command
}

#[track_caller]
fn tokens(outcome: &Outcome) -> String {
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    outcome.stdout.clone()
}

/// A trained adapter, its base, and another model as the defaults' one.
fn scene() -> (Trial, PathBuf, String) {
    let trial = Trial::with_own_model("llama-gqa", "lora");
    let base = trial.root.path().join("base-model");
    let defaults = json!({"model_id": model("llama-tied"), "dtype": "float32"});
    let file = trial.root.path().join("default_benchmark_params.json");
    fs::write(file, defaults.to_string()).unwrap();
    let expected = generate(
        &trial,
        &trial.experiment,
        &["--model", base.to_str().unwrap()],
    );
    let expected = tokens(&expected);
    (trial, base, expected)
}

#[test]
fn a_trained_adapter_runs_on_the_base_that_it_names() {
    let (trial, base, expected) = scene();
    let inside = trial.experiment.join("its-base");
    copy_folder(&base, &inside);
    for name in [
        base.to_str().unwrap(),
        // Below the working directory, next to the adapter's folder, and in it.
        "base-model",
        "../base-model",
        "its-base",
    ] {
        trial.set("base_model_name_or_path", json!(name));
        assert_eq!(tokens(&generate(&trial, &trial.experiment, &[])), expected);
    }
    for name in ["prepare", "verify"] {
        let outcome = run(command(&trial, name).arg(&trial.experiment));
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    }
    // Its own parameters may name another base.
    trial.set("base_model_name_or_path", json!("nowhere"));
    let own = trial.experiment.join("benchmark_params.json");
    fs::write(own, json!({"model_id": base}).to_string()).unwrap();
    assert_eq!(tokens(&generate(&trial, &trial.experiment, &[])), expected);
}

#[test]
fn a_trained_adapter_whose_base_cannot_be_had_runs_on_no_other() {
    let (trial, _, _) = scene();
    for (name, words) in [
        (
            json!("/home/someone/base"),
            &["`/home/someone/base`", "isn't here", "`--model`"][..],
        ),
        (
            json!("./models/base"),
            &["`./models/base`", "isn't here", "`--model`"],
        ),
        (
            json!("someone/base"),
            &["`someone/base`", "not in the cache", "`--model`"],
        ),
        (
            json!("gpt2"),
            &["`openai-community/gpt2`", "not in the cache"],
        ),
        (
            json!(null),
            &[CONFIG, "`base_model_name_or_path`", "`--model`"],
        ),
        (
            json!(""),
            &[CONFIG, "`base_model_name_or_path`", "`--model`"],
        ),
    ] {
        trial.set("base_model_name_or_path", name);
        assert_refused(&generate(&trial, &trial.experiment, &[]), words);
        for name in ["prepare", "verify", "measure"] {
            let outcome = run(command(&trial, name).arg(&trial.experiment));
            assert_eq!(outcome.code, Some(1), "{outcome:?}");
        }
    }
    trial.set("base_model_name_or_path", json!("someone/base"));
    trial.set("revision", json!("v2"));
    assert_refused(
        &generate(&trial, &trial.experiment, &[]),
        &["`someone/base@v2`", "at `v2`"],
    );
}

#[test]
fn a_fresh_adapter_that_names_no_base_runs_on_the_parameters_one() {
    let (trial, base, _) = scene();
    crate::common::make_fresh(&trial.experiment);
    trial.set("base_model_name_or_path", json!(null));
    let defaults = trial.root.path().join("default_benchmark_params.json");
    set_key(&defaults, "model_id", json!(base));
    let outcome = generate(&trial, &trial.experiment, &[]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let manifest = trial.manifest("unmerged");
    assert_eq!(manifest["model_id"], json!(base));
    trial.set("base_model_name_or_path", json!("someone/base"));
    assert_refused(
        &generate(&trial, &trial.experiment, &[]),
        &["`someone/base`"],
    );
}

#[test]
fn a_checkpoint_with_a_configuration_left_over_is_the_checkpoint() {
    let (trial, base, adapted) = scene();
    let plain = tokens(&generate(&trial, &base, &[]));
    assert_ne!(plain, adapted);
    let copied = |name: &str| fs::copy(trial.experiment.join(name), base.join(name)).unwrap();
    copied(CONFIG);
    let outcome = generate(&trial, &base, &[]);
    assert_eq!(tokens(&outcome), plain);
    assert!(outcome.stderr.contains("is a checkpoint"), "{outcome:?}");
    let outcome = run(command(&trial, "prepare").arg(&base));
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(
        outcome.stderr.contains("`peft-bench measure"),
        "{outcome:?}"
    );

    // With an adapter's weights in the same folder as the model's, it's the adapter, on the base
    // that it names.
    copied(WEIGHTS);
    set_key(&base.join(CONFIG), "base_model_name_or_path", json!("."));
    let outcome = generate(&trial, &base, &[]);
    assert!(
        outcome.stderr.contains("an adapter and a whole model"),
        "{outcome:?}"
    );
}

#[test]
fn an_adapter_in_shards_is_read() {
    let (trial, base, expected) = scene();
    let tensors = read_tensors(&trial.weights());
    let mut map = serde_json::Map::new();
    for (number, (name, tensor)) in tensors.iter().enumerate() {
        let shard = format!("adapter_model-{:05}-of-00002.safetensors", number % 2 + 1);
        map.insert(name.clone(), json!(shard));
        let path = trial.experiment.join(&shard);
        let mut all = if path.exists() {
            read_tensors(&path)
        } else {
            Default::default()
        };
        all.insert(name.clone(), tensor.clone());
        write_tensors(&path, &all, Dtype::Float32);
    }
    fs::remove_file(trial.weights()).unwrap();
    let index = trial
        .experiment
        .join("adapter_model.safetensors.index.json");
    fs::write(&index, json!({"weight_map": map}).to_string()).unwrap();
    let model = ["--model", base.to_str().unwrap()];
    assert_eq!(
        tokens(&generate(&trial, &trial.experiment, &model)),
        expected
    );

    let missing = trial
        .experiment
        .join("adapter_model-00002-of-00002.safetensors");
    fs::remove_file(missing).unwrap();
    let outcome = generate(&trial, &trial.experiment, &model);
    assert_refused(
        &outcome,
        &["adapter_model-00002-of-00002.safetensors", "cannot read"],
    );
}

#[test]
fn an_adapter_of_another_task_is_used_where_its_tensors_fit() {
    let (trial, base, expected) = scene();
    trial.set("task_type", json!("SEQ_CLS"));
    let model = ["--model", base.to_str().unwrap()];
    let outcome = generate(&trial, &trial.experiment, &model);
    assert_eq!(tokens(&outcome), expected);
    assert!(
        outcome.stderr.contains("`task_type` is `SEQ_CLS`"),
        "{outcome:?}"
    );
}

#[test]
fn experts_are_found_at_their_paths_next_to_the_adapter_and_in_it() {
    let trial = Trial::new("llama-gqa", "xlora");
    let expected = trial.logits_of("unmerged");
    let adapters = |first: &Path| {
        let old = read_json(&trial.experiment.join(CONFIG))["adapters"].clone();
        let mut all = old.as_object().unwrap().clone();
        all.insert("0".to_owned(), json!(first));
        trial.set("adapters", json!(all));
    };
    // By the last segment of a path of another machine.
    adapters(Path::new("/elsewhere/runs/expert_0"));
    assert_eq!(trial.logits_of("unmerged"), expected);
    // At the path as written.
    let moved = trial.root.path().join("moved/first");
    copy_folder(&trial.experiment.join("expert_0"), &moved);
    fs::remove_dir_all(trial.experiment.join("expert_0")).unwrap();
    adapters(&moved);
    assert_eq!(trial.logits_of("unmerged"), expected);
    // Next to the adapter's folder.
    copy_folder(&moved, &trial.root.path().join("beside"));
    fs::remove_dir_all(&moved).unwrap();
    adapters(Path::new("runs/beside"));
    assert_eq!(trial.logits_of("unmerged"), expected);
}
