//! Checkpoints that another program merged (`verify --merged`), and conversions to LoRA.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::trial::{CONFIG, Trial};
use crate::common::{Outcome, assert_refused, program, read_json, run};

/// A trial, with the checkpoint that `prepare` merges.
fn merged(case: &str, dtype: &str) -> (Trial, String) {
    let trial = Trial::new("llama-gqa", case);
    let outcome = trial.run("prepare", &["--format", "hf", "--dtype", dtype]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let checkpoint = trial.prepared(&format!("checkpoint-{dtype}"));
    (trial, checkpoint.display().to_string())
}

fn verify(trial: &Trial, checkpoint: &str, options: &[&str]) -> Outcome {
    let mut all = vec!["--merged", checkpoint];
    all.extend(options);
    trial.run("verify", &all)
}

#[test]
fn a_right_checkpoint_passes_and_a_wrong_one_is_named_by_tensor_and_by_its_predictions() {
    let (trial, checkpoint) = merged("lora", "bfloat16");
    let outcome = verify(&trial, &checkpoint, &[]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    for words in ["checkpoint ", "bit for bit", "KL divergence", "\nright "] {
        assert!(outcome.stdout.contains(words), "{words}: {outcome:?}");
    }

    let base = trial.model.display().to_string();
    let outcome = verify(&trial, &base, &[]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    for words in [
        "the adapter isn't applied",
        "and 1 more",
        "KL divergence",
        "\nwrong ",
    ] {
        assert!(outcome.stdout.contains(words), "{words}: {outcome:?}");
    }

    let outcome = verify(&trial, &base, &["--json"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let found: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(found["right"], false);
    let tensors = found["tensors"].as_array().unwrap();
    let adapted = tensors.iter().filter(|tensor| tensor["adapted"] == true);
    assert_eq!(
        found["counts"]["not_applied"],
        json!(adapted.clone().count())
    );
    for tensor in adapted {
        assert_eq!(tensor["verdict"], "not_applied");
        assert_eq!(tensor["figures"]["scale"], 0.0);
    }
    let text = &found["text"];
    assert_eq!(text["divergence"], text["without_adapter"]);
    assert!(text["divergence"]["mean_kl"].as_f64() > found["largest_mean_kl"].as_f64());

    let outcome = verify(&trial, &checkpoint, &["--json", "--tensors-only"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let found: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(
        (&found["right"], &found["text"]),
        (&json!(true), &Value::Null)
    );
}

/// All tensors are right, and another base of the rotation makes other predictions of them.
#[test]
fn a_checkpoint_with_another_configuration_is_found_by_its_predictions() {
    let (trial, checkpoint) = merged("lora", "float32");
    let config = std::path::Path::new(&checkpoint).join("config.json");
    let mut changed = read_json(&config);
    changed["rope_parameters"]["rope_theta"] = json!(100.0);
    fs::write(&config, changed.to_string()).unwrap();
    let outcome = verify(&trial, &checkpoint, &["--tensors-only"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let outcome = verify(&trial, &checkpoint, &[]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stdout.contains("`config.json`"), "{outcome:?}");
}

#[test]
fn what_cannot_be_compared_has_an_exit_code_of_its_own() {
    let trial = Trial::new("llama-gqa", "lora");
    let nowhere = trial.root.path().join("nowhere").display().to_string();
    let base = trial.model.display().to_string();
    for (checkpoint, options, words) in [
        (&nowhere, vec![], "nowhere"),
        (&base, vec!["--quantize", "4bit"], "leave `--quantize` out"),
    ] {
        let outcome = verify(&trial, checkpoint, &options);
        assert_eq!(outcome.code, Some(3), "{outcome:?}");
        assert!(outcome.error().unwrap().contains(words), "{outcome:?}");
    }
    let prefix = Trial::new("llama-gqa", "prefix-tuning");
    let outcome = verify(&prefix, &base, &[]);
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert!(outcome.error().unwrap().contains("can't be merged"));
    assert_eq!(trial.run("verify", &["--json"]).code, Some(2));
}

fn convert(trial: &Trial, rank: &str) -> (Outcome, String) {
    let into = trial.root.path().join(format!("lora-{rank}"));
    let into = into.display().to_string();
    let outcome = trial.run(
        "convert",
        &["--to", "lora", "--rank", rank, "--into", &into],
    );
    (outcome, into)
}

#[test]
fn a_conversion_says_what_is_lost_and_can_be_used_like_any_adapter() {
    let trial = Trial::new("llama-gqa", "dora");
    let (outcome, folder) = convert(&trial, "4");
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    for words in ["of the change's energy", "KL divergence", "written "] {
        assert!(outcome.stdout.contains(words), "{words}: {outcome:?}");
    }
    let folder = std::path::PathBuf::from(folder);
    let report = read_json(&folder.join("conversion.json"));
    let modules = report["modules"].as_array().unwrap();
    assert_eq!(modules.len(), 8);
    for module in modules {
        let kept = module["energy_kept"].as_f64().unwrap();
        assert!(module["rank"] == 4 && kept > 0.3 && kept < 1.0, "{module}");
    }
    let lossy = report["text"]["divergence"]["mean_kl"].as_f64().unwrap();
    let without = report["text"]["without_adapter"]["mean_kl"]
        .as_f64()
        .unwrap();
    assert!(0.0 < lossy && lossy < without, "{lossy} {without}");
    assert_eq!(read_json(&folder.join(CONFIG))["r"], 4);

    let mut check: Command = program(["check"]);
    let outcome = run(check.arg(&folder).arg("--model").arg(&trial.model));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");

    // With all ranks, nothing is lost.
    let (outcome, folder) = convert(&trial, "1.0");
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let report = read_json(&std::path::Path::new(&folder).join("conversion.json"));
    assert!(report["text"]["divergence"]["mean_kl"].as_f64().unwrap() < 1e-6);

    let (outcome, folder) = convert(&trial, "4");
    assert_refused(&outcome, &[&folder, "is there already"]);
}

#[test]
fn what_lora_cannot_hold_is_refused_by_name() {
    for (case, words) in [
        ("prefix-tuning", "PREFIX_TUNING adds virtual tokens"),
        ("ln-tuning", "LN_TUNING"),
        ("trainable-tokens", "TRAINABLE_TOKENS"),
    ] {
        let trial = Trial::new("llama-gqa", case);
        let (outcome, folder) = convert(&trial, "8");
        assert_refused(&outcome, &[words]);
        assert!(!std::path::Path::new(&folder).exists());
    }
    let trial = Trial::new("mixtral", "lora-experts");
    assert_refused(&convert(&trial, "8").0, &["experts", "target_parameters"]);
    assert_eq!(convert(&trial, "0").0.code, Some(2));
}
