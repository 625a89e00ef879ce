//! Requests on the command line that can't be fulfilled, and folders that can't be written.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use peft_bench::adapter::AdapterForm;
use peft_bench::experiment::Experiment;
use peft_bench::model::BaseModel;
use peft_bench::prepare::Preparation;
use peft_bench::prepared::{Precision, Variant};
use peft_bench::system::Hardware;
use peft_bench::weights::Dtype;
use serde_json::json;

use crate::common::*;
use crate::spoilt::Spoilt;

#[test]
fn a_model_without_latent_attention_has_no_choice_of_what_that_caches() {
    for cache in ["expanded", "compressed"] {
        let mut command = program(["generate", "--ep", "cpu", "--prompt-ids", "1,2"]);
        command.arg(model("llama-gqa")).args(["--mla", cache]);
        let outcome = run(&mut command);
        assert_refused(
            &outcome,
            &[
                "`--mla`",
                "`llama`",
                "no latent attention",
                "leave it out",
                "`deepseek_v3`",
            ],
        );
    }
    let outcome = run(&mut program(["generate", "--mla", "short"]));
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
}

#[test]
fn an_experiment_that_is_not_there_is_refused() {
    let trial = Spoilt::new("llama-gqa", "lora");
    let missing = trial.root.path().join("lora/nothing");
    let mut command = trial.command(&["prepare"]);
    trial.refused(
        &run(command.arg(&missing)),
        &["no experiment folder", "lora/nothing"],
    );
    let mut command = trial.command(&["generate", "--prompt-ids", "1"]);
    trial.refused(
        &run(command.arg(&missing)),
        &["no experiment folder", "lora/nothing"],
    );

    fs::create_dir_all(&missing).unwrap();
    let mut command = trial.command(&["prepare"]);
    trial.refused(
        &run(command.arg(&missing)),
        &["lora/nothing", "adapter_config.json"],
    );
    let mut command = trial.command(&["prepare"]);
    trial.refused(
        &run(command.arg(&trial.base)),
        &["base-model", "adapter_config.json"],
    );
}

#[test]
fn a_prompt_that_does_not_fit_is_refused() {
    let trial = Spoilt::new("llama-gqa", "lora");
    let long: Vec<String> = (0..120).map(|id| id.to_string()).collect();
    let long = long.join(",");
    for (options, needed) in [
        (["--prompt-ids", &long, "--max-new-tokens", "9"], "129"),
        (["--prompt-ids", "1", "--max-new-tokens", "128"], "129"),
        (
            [
                "--prompt-ids",
                "1",
                "--max-new-tokens",
                "18446744073709551615",
            ],
            "positions",
        ),
        (
            [
                "--prompt-ids",
                "1,2",
                "--max-new-tokens",
                "18446744073709551614",
            ],
            "positions",
        ),
    ] {
        trial.refused(&trial.generate(&options), &[needed, "the model has 128"]);
    }
    let fits = trial.generate(&["--prompt-ids", &long, "--max-new-tokens", "8"]);
    assert_eq!(fits.code, Some(0), "{fits:?}");

    // Virtual tokens occupy positions too.
    let trial = Spoilt::fresh(
        "llama-gqa",
        json!({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 100}),
    );
    let outcome = trial.generate(&["--prompt-ids", "1,2", "--max-new-tokens", "27"]);
    assert_refused(&outcome, &["129", "the model has 128"]);
    let outcome = trial.generate(&["--prompt-ids", "1", "--max-new-tokens", "27"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
}

#[test]
fn positions_that_would_need_another_rotation_are_refused_with_the_reason() {
    let ids = vec!["5"; 60].join(",");
    let trial = Spoilt::new("qwen3", "lora");
    let outcome = trial.generate(&["--prompt-ids", &ids, "--max-new-tokens", "80"]);
    trial.refused(&outcome, &["128", "dynamic"]);
}

#[test]
fn a_token_outside_the_vocabulary_is_refused() {
    let trial = Spoilt::new("llama-gqa", "lora");
    for id in ["140", "4294967295"] {
        let outcome = trial.generate(&["--prompt-ids", &format!("1,{id},2")]);
        trial.refused(&outcome, &[id, "vocabulary", "139"]);
    }
    let last = trial.generate(&["--prompt-ids", "139", "--max-new-tokens", "1"]);
    assert_eq!(last.code, Some(0), "{last:?}");
}

#[test]
fn malformed_options_are_usage_errors() {
    let trial = Spoilt::new("llama-gqa", "lora");
    for options in [
        &["--prompt-ids", "1,-2"][..],
        &["--prompt-ids", "4294967296"],
        &["--prompt-ids", "one"],
        &["--prompt-ids", ""],
        &["--prompt-ids", "1", "--prompt", "both"],
        &["--prompt-ids", "1", "--max-new-tokens", "0"],
        &["--prompt-ids", "1", "--max-new-tokens", "-3"],
        &["--prompt-ids", "1", "--variant", "folded"],
        &["--prompt-ids", "1", "--dtype", "int8"],
        &["--prompt-ids", "1", "--threads", "0"],
        &["--prompt-ids", "1", "--weights", "on-disk"],
        &["--prompt-ids", "1", "--unknown"],
        &[],
    ] {
        let outcome = trial.generate(options);
        assert_eq!(outcome.code, Some(2), "{options:?}: {outcome:?}");
        assert_eq!(outcome.stdout, "");
        assert!(outcome.stderr.starts_with("error: "), "{outcome:?}");
        assert_eq!(trial.stamps(), trial.before);
    }
}

#[test]
fn an_invalid_model_is_refused() {
    let trial = Spoilt::new("llama-gqa", "lora");
    for id in [
        "/no/such/folder",
        "./nothing",
        "synthetic/no-such-shape",
        "no-slash",
        "",
    ] {
        let mut command = trial.command(&["prepare", "--offline"]);
        let outcome = run(command.arg(&trial.experiment).args(["--model", id]));
        trial.refused(&outcome, &[id.trim_start_matches("synthetic/")]);
    }
    let mut command = trial.command(&["generate", "--prompt-ids", "1", "--variant", "merged"]);
    trial.refused(
        &run(command.arg(&trial.base)),
        &["base-model", "without an adapter", "`base`"],
    );
}

#[test]
fn options_that_a_prepared_folder_fixes_are_refused() {
    let trial = Spoilt::new("llama-gqa", "lora");
    let models = names(&trial.exported);
    let prepared = only(&trial.exported.join(&models[0]).join("lora--trial"));
    for options in [["--model", "synthetic/x"], ["--dtype", "float16"]] {
        let mut command = trial.command(&["generate", "--prompt-ids", "1"]);
        let outcome = run(command.arg(&prepared).args(options));
        trial.refused(&outcome, &[options[0], "prepared"]);
    }
    let mut command = trial.command(&["generate", "--prompt-ids", "1", "--dtype", "float32"]);
    let outcome = run(command.arg(&prepared));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
}

#[test]
fn a_folder_prepared_for_a_gpu_is_not_measured_on_a_cpu() {
    let trial = Spoilt::new("llama-gqa", "lora");
    let base = BaseModel::open_folder(&trial.base).unwrap();
    let preparation = Preparation {
        base: &base,
        precision: Precision::new(Dtype::Float32, true),
        export_dir: &trial.root.path().join("for-a-gpu"),
        seed: 0,
        adapter_form: AdapterForm::Reduced,
        task_id: None,
    };
    let experiment = Experiment::find(&trial.experiment).unwrap();
    let all = preparation.prepare(Some(&experiment), &[Variant::Base, Variant::Unmerged]);
    let folder = all.unwrap()[1].folder.parent().unwrap().to_owned();
    let mut command = trial.command(&["measure"]);
    trial.refused(
        &run(command.arg(&folder)),
        &["prepared for another `--ep`", "its attention"],
    );
    // `generate` can run it on a CPU, though, with the same tokens.
    let models = names(&trial.exported);
    let own = only(&trial.exported.join(&models[0]).join("lora--trial"));
    let generate = |folder: &Path| {
        let mut command = trial.command(&["generate", "--prompt-ids", "1,2,3", "--json"]);
        let outcome = run(command.arg(folder));
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        outcome.stdout
    };
    assert_eq!(generate(&folder), generate(&own));
}

#[test]
fn cuda_is_refused_where_there_is_none() {
    if Hardware::collect(0).num_accelerators > 0 {
        return;
    }
    let trial = Spoilt::new("llama-gqa", "lora");
    let mut command = program(["prepare", "--ep", "cuda"]);
    command
        .arg(&trial.experiment)
        .arg("--model")
        .arg(&trial.base);
    let outcome = run(command.arg("--export-dir").arg(&trial.exported));
    trial.refused(&outcome, &["`--ep cuda`", "no NVIDIA GPU", "`--ep cpu`"]);
}

#[test]
fn a_full_disk_during_the_merge_is_an_error_that_names_the_file() {
    let trial = Spoilt::new("llama-gqa", "lora");
    trial.set("lora_alpha", json!(5));
    // 16 blocks of 512 or 1024 bytes; the overlay has 48 KiB.
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "ulimit -f 16; exec \"$0\" \"$@\"",
        PROGRAM,
        "prepare",
        "--ep",
        "cpu",
    ]);
    command
        .arg(&trial.experiment)
        .arg("--model")
        .arg(&trial.base);
    command
        .args(["--variant", "merged"])
        .arg("--export-dir")
        .arg(&trial.exported);
    let outcome = run(&mut command);
    trial.refused(
        &outcome,
        &["cannot write", "overlay.safetensors", "File too large"],
    );

    let models = names(&trial.exported);
    let earlier = only(&trial.exported.join(&models[0]).join("lora--trial")).join("merged");
    let mut command = trial.command(&["generate", "--prompt-ids", "1,2,3"]);
    let outcome = run(command.arg(earlier));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
}

#[test]
fn folders_that_cannot_be_written_are_named() {
    let trial = Spoilt::new("llama-gqa", "lora");
    let file = trial.root.path().join("a-file");
    fs::write(&file, "in the way").unwrap();
    for exported in [
        file.clone(),
        file.join("below"),
        PathBuf::from("/proc/exported"),
    ] {
        let mut command = program(["prepare", "--ep", "cpu"]);
        command
            .arg(&trial.experiment)
            .arg("--model")
            .arg(&trial.base);
        let outcome = run(command.arg("--export-dir").arg(&exported));
        trial.refused(&outcome, &["cannot write", exported.to_str().unwrap()]);
    }
    assert_eq!(fs::read(&file).unwrap(), b"in the way");

    let logits = file.join("logits.safetensors");
    let outcome = trial.generate(&["--prompt-ids", "1", "--logits", logits.to_str().unwrap()]);
    trial.refused(&outcome, &["cannot write", "logits.safetensors"]);
}
