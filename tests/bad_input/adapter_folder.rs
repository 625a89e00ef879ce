//! Adapter folders that lack needed files, or contain something else.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;

use crate::common::trial::{CONFIG, PROMPT, Trial, WEIGHTS};
use crate::common::{
    Outcome, assert_refused, case, copy_folder, edit_tensors, make_fresh, model, names, program,
    relative_difference, run,
};

const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n";

/// Checks that every command that takes an adapter refuses it, in `words`.
#[track_caller]
fn refused_by_all(trial: &Trial, more: &[&str], words: &[&str]) {
    let commands: [(&str, &[&str]); 5] = [
        ("generate", &PROMPT),
        ("prepare", &[]),
        ("prepare", &["--format", "hf"]),
        ("verify", &[]),
        ("measure", &[]),
    ];
    for (command, options) in commands {
        assert_refused(&trial.run(command, &[options, more].concat()), words);
    }
    let exported = trial.root.path().join("exported");
    assert!(!exported.exists() || names(&exported).is_empty());
}

/// A trial of a fresh adapter whose folder also has `file`.
fn with_file(file: &str, content: &str) -> Trial {
    let trial = Trial::fresh("llama-gqa", "lora");
    fs::write(trial.experiment.join(file), content).unwrap();
    trial
}

#[test]
fn a_trained_adapter_without_its_weights_is_refused_by_every_command() {
    let trial = Trial::fresh("llama-gqa", "lora");
    trial.set("inference_mode", json!(true));
    let words = [
        "has no weights",
        WEIGHTS,
        "index.json",
        "nothing else",
        "`inference_mode: true`",
        "copy or download",
        "`--fresh`",
    ];
    refused_by_all(&trial, &[], &words);

    for file in [
        "pytorch_model_fsdp.safetensors",
        "model.bin",
        "adapter.pt",
        "weights.PTH",
        "last.ckpt",
        "adapters.npz",
        "training_args.bin",
        "model.safetensors.index.json",
        "adapter_model-00001-of-00002.safetensors",
        "lora.gguf",
    ] {
        let named = format!("`{file}`");
        refused_by_all(&with_file(file, "0123"), &[], &["has no weights", &named]);
    }
    // A file that doesn't suggest weights leaves the adapter fresh.
    let trial = with_file("README.md", "an adapter");
    let outcome = trial.run("generate", &PROMPT);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stderr.contains("drawn fresh"), "{outcome:?}");
    let trial = with_file("README.md", "an adapter");
    refused_by_all(&trial, &["--trained"], &["`--trained`", "has no weights"]);
}

#[test]
fn advice_on_missing_weights_depends_on_the_files_found() {
    let advised = |trial: &Trial, words: &[&str]| {
        trial.set("inference_mode", json!(true));
        assert_refused(&trial.run("generate", &PROMPT), words);
    };
    advised(
        &with_file("a.safetensors", "0123"),
        &["`mv ", "a.safetensors "],
    );
    advised(&with_file("a.gguf", "0123"), &["llama.cpp"]);
    advised(&with_file("a.safetensors", POINTER), &["lfs pull"]);
    advised(
        &with_file("pytorch_model.bin", "0123"),
        &["save_pretrained"],
    );
    let trial = Trial::fresh("llama-gqa", "lora");
    copy_folder(
        &case("llama-gqa", "lora"),
        &trial.experiment.join("checkpoint-20"),
    );
    advised(&trial, &["trial/checkpoint-20` has weights"]);
}

#[test]
fn fresh_values_are_drawn_on_request() {
    let trial = Trial::new("llama-gqa", "lora");
    let trained = trial.logits(&PROMPT);
    let base = trial.logits_of("base");
    let fresh = [&PROMPT[..], &["--fresh"]].concat();
    assert!(relative_difference(&trial.logits(&fresh), &trained) > 1e-3);
    assert_eq!(trial.manifest("unmerged")["adapter"]["fresh"], true);
    // A fresh LoRA adapter computes the same as the base.
    let prompt = ["--prompt-ids", "3,1,4,1,5,9,31,2,6", "--fresh"];
    assert_eq!(trial.logits(&prompt), base);
    assert_eq!(trial.logits(&PROMPT), trained);
    assert_eq!(trial.manifest("unmerged")["adapter"]["fresh"], false);

    let both = trial.run("generate", &[&fresh[..], &["--trained"]].concat());
    assert_eq!(both.code, Some(2), "{both:?}");
    for option in ["--fresh", "--trained"] {
        let mut command = program(["generate", "--prompt-ids", "1", option]);
        let outcome = run(command.arg(model("llama-gqa")));
        assert_refused(&outcome, &[option, "a checkpoint"]);
    }
}

#[test]
fn the_error_for_a_pickle_has_the_command_that_converts_it() {
    let trial = Trial::new("llama-gqa", "lora");
    fs::rename(trial.weights(), trial.experiment.join("adapter_model.bin")).unwrap();
    let folder = format!("\" {}`", trial.experiment.display());
    refused_by_all(
        &trial,
        &[],
        &["pickle", "`python3 -c \"", "torch.load", &folder],
    );
    fs::write(trial.experiment.join("adapter_model.bin"), POINTER).unwrap();
    assert_refused(
        &trial.run("generate", &PROMPT),
        &["adapter_model.bin", "lfs pull"],
    );
}

#[test]
fn files_with_unexpected_content_are_identified() {
    for (content, word) in [
        ("", "empty"),
        (POINTER, "git lfs pull"),
        ("<!doctype html>", "web page"),
    ] {
        for file in [CONFIG, WEIGHTS] {
            let trial = Trial::new("llama-gqa", "lora");
            fs::write(trial.experiment.join(file), content).unwrap();
            assert_refused(&trial.run("generate", &PROMPT), &[file, word]);
        }
        for file in ["config.json", "model.safetensors"] {
            let trial = Trial::with_own_model("llama-gqa", "lora");
            fs::write(trial.model.join(file), content).unwrap();
            assert_refused(&trial.run("generate", &PROMPT), &[file, word]);
        }
        let trial = Trial::with_own_model("llama-gqa", "lora");
        fs::write(trial.model.join("tokenizer.json"), content).unwrap();
        let outcome = trial.run("generate", &["--prompt", "a b"]);
        assert_refused(&outcome, &["tokenizer.json", word]);
        let trial = Trial::with_own_model("llama-linear", "lora");
        let shard = names(&trial.model)
            .into_iter()
            .find(|name| name.starts_with("model-"));
        fs::write(trial.model.join(shard.as_ref().unwrap()), content).unwrap();
        assert_refused(&trial.run("generate", &PROMPT), &[&shard.unwrap(), word]);
    }
}

#[test]
fn a_link_to_nothing_is_named() {
    let trial = Trial::new("llama-gqa", "lora");
    fs::remove_file(trial.weights()).unwrap();
    symlink("../../blobs/0123", trial.weights()).unwrap();
    let words = [WEIGHTS, "../../blobs/0123", "download"];
    refused_by_all(&trial, &[], &words);
}

#[test]
fn tensors_that_zero_3_left_empty_are_recognized() {
    let trial = Trial::new("llama-gqa", "lora");
    edit_tensors(&trial.weights(), |tensors| {
        for tensor in tensors.values_mut() {
            (tensor.shape, tensor.values) = (vec![0], Vec::new());
        }
    });
    let words = [WEIGHTS, "lora_A", "empty", "ZeRO-3", "zero_to_fp32.py"];
    refused_by_all(&trial, &[], &words);
}

#[test]
fn an_adapter_of_mlx_is_recognized() {
    let trial = Trial::fresh("llama-gqa", "lora");
    let config = json!({
        "fine_tune_type": "lora", "num_layers": 16, "model": "org/base",
        "lora_parameters": {"rank": 8, "scale": 20.0, "dropout": 0.0},
    });
    fs::write(trial.experiment.join(CONFIG), config.to_string()).unwrap();
    fs::write(trial.experiment.join("adapters.safetensors"), "0123").unwrap();
    let words = ["MLX", "`mlx_lm.fuse --model org/base --adapter-path "];
    refused_by_all(&trial, &[], &words);
}

/// The outcome of `generate` with the target `path`, run in the folder `root`.
fn named(root: &Path, path: &str) -> Outcome {
    let mut command = program(["generate", "--prompt-ids", "1", "--offline", path]);
    run(command.current_dir(root))
}

#[test]
fn a_mistyped_path_gets_a_suggestion() {
    let root = tempfile::tempdir().unwrap();
    let adapter = case("llama-gqa", "lora");
    for name in ["checkpoint-500", "checkpoint-1000"] {
        copy_folder(&adapter, &root.path().join("outputs").join(name));
    }
    copy_folder(&adapter, &root.path().join("my-adapter"));
    let experiment = root.path().join("experiments/lora/lora_r8");
    copy_folder(&adapter, &experiment);
    make_fresh(&experiment);
    fs::write(root.path().join("adapter.gguf"), "GGUF").unwrap();
    for (path, words) in [
        (
            "my-adaptr",
            &["no experiment folder", "did you mean `my-adapter`"][..],
        ),
        ("./my-adaptr", &["did you mean `./my-adapter`"]),
        (
            "outputs/chekpoint-500",
            &["did you mean `outputs/checkpoint-500`"],
        ),
        ("lora/lora_r9", &["did you mean `lora/lora_r8`"]),
        ("lora_r8", &["did you mean `lora/lora_r8`"]),
        ("nothing-like-it", &["hub id", "did you mean"]),
        // In numeric order.
        (
            "outputs",
            &["`outputs/checkpoint-500`, `outputs/checkpoint-1000`"],
        ),
        (
            "my-adapter/adapter_model.safetensors",
            &["is a file", "name `my-adapter`"],
        ),
        ("adapter.gguf", &["is a file", "llama.cpp"]),
        ("org/adapter", &["`org/adapter`", "hub", "`--offline`"]),
    ] {
        assert_refused(&named(root.path(), path), words);
    }
    let empty = tempfile::tempdir().unwrap();
    assert_refused(&named(empty.path(), "."), &["adapter_config.json", "empty"]);
}
