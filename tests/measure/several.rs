//! Several targets at once, and targets other than experiments.

use std::fs;
use std::path::PathBuf;

use crate::common::*;
use crate::workplace::Workplace;

#[test]
fn prepared_folders_and_merged_checkpoints_are_measured_too() {
    let place = Workplace::new(1);
    let target = case("llama-gqa", "lora");
    let target = target.to_str().unwrap();
    let outcome =
        run(&mut place.command(&["prepare", target, "--format", "onnx", "--format", "hf"]));
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let exported = place.path("exported_models");
    let experiment = only(&exported.join(&names(&exported)[0]).join("lora--lora"));

    let outcome = place.measure(&experiment, &[]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let result = place.result("lora--lora");
    let variants = result["generation_info"]["variants"].as_object().unwrap();
    assert!(variants.contains_key("merged") && variants.contains_key("unmerged"));
    assert!(variants.contains_key("base"));

    let checkpoint = experiment.join("checkpoint");
    let base = model("llama-gqa");
    let outcome = place.measure(&checkpoint, &["--model", base.to_str().unwrap()]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let result = place.result("checkpoint--checkpoint");
    let variants = result["generation_info"]["variants"].as_object().unwrap();
    assert!(variants["merged"]["overhead_pct"]["overall"]["pct"].is_f64());
    let outcome = place.measure(&checkpoint, &[]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert_eq!(place.results("checkpoint--checkpoint").len(), 2);
}

#[test]
fn experiments_with_the_same_parameters_are_measured_against_one_base() {
    let place = Workplace::new(5);
    let [lora, dora, prompt] =
        ["lora", "dora", "prompt-tuning"].map(|name| case("llama-gqa", name));
    let other = place.path("other");
    copy_folder(&lora, &other);
    fs::write(
        other.join("benchmark_params.json"),
        r#"{"num_inference_runs": 1}"#,
    )
    .unwrap();
    let missing = place.path("missing");
    let targets = [&lora, &dora, &missing, &prompt, &other].map(PathBuf::as_path);
    let outcome = place.measure_all(&targets, &["--sweep", "16"]);
    // The other targets are measured nevertheless.
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("no experiment folder"),
        "{}",
        outcome.stderr
    );
    assert!(
        outcome.stdout.contains("3 experiments on"),
        "{}",
        outcome.stdout
    );
    assert!(
        outcome.stdout.contains("lora--other on"),
        "{}",
        outcome.stdout
    );
    for line in outcome.stdout.lines().filter(|line| line.ends_with("MiB")) {
        assert!(line.chars().count() <= 100, "{line}");
    }

    let result = |stem: &str| place.result(stem)["generation_info"].clone();
    let [lora, dora, prompt] =
        ["lora--lora", "lora--dora", "prompt_tuning--prompt-tuning"].map(result);
    let base = &lora["variants"]["base"];
    for other in [&dora, &prompt] {
        assert_eq!(&other["variants"]["base"], base, "it is one and the same");
    }
    assert_ne!(lora["by_category"], dora["by_category"]);
    assert_ne!(lora["parity"], dora["parity"]);
    for info in [&lora, &dora] {
        assert_eq!(
            info["variants"]["merged"]["overhead_pct"]["overall"]["pairs"],
            15
        );
        assert_eq!(
            info["variants"]["unmerged"]["overhead_pct"]["overall"]["paired"],
            true
        );
        assert_eq!(info["sweep"][0]["variants"].as_object().unwrap().len(), 3);
        assert!(info["break_even"]["groups"].is_array());
    }
    assert!(prompt["variants"]["merged"]["absent"].is_string());
    assert_eq!(prompt["variants"].as_object().unwrap().len(), 3);
    let alone = &result("lora--other")["variants"]["base"];
    assert_ne!(alone, base);
    assert_eq!(alone["by_category"]["short"]["metrics"]["runs"], 1);
}

#[test]
fn an_experiment_that_fails_does_not_affect_the_others() {
    let place = Workplace::new(1);
    let (good, bad) = (case("llama-gqa", "lora"), place.path("bad"));
    copy_folder(&good, &bad);
    edit_tensors(&bad.join("adapter_model.safetensors"), |tensors| {
        for tensor in tensors.values_mut() {
            tensor.values.fill(0.0);
        }
    });
    let outcome = place.measure_all(&[&good, &bad], &[]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("lora--bad"), "{}", outcome.stderr);
    assert_eq!(place.result("lora--lora")["run_info"]["status"], "success");
    assert_eq!(
        place.result("failed/lora--bad")["run_info"]["status"],
        "failed"
    );
    assert!(place.results("lora--bad").is_empty());
}
