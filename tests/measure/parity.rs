//! `measure` and `verify` with variants that don't compute the same.

use std::fs;
use std::path::PathBuf;

use crate::common::*;
use crate::workplace::Workplace;

/// A prepared folder, whose files the caller changes afterwards.
fn prepared_experiment(place: &Workplace) -> PathBuf {
    let target = case("llama-gqa", "lora");
    let outcome = run(&mut place.command(&["prepare", target.to_str().unwrap()]));
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let exported = place.path("exported_models");
    only(&exported.join(&names(&exported)[0]).join("lora--lora"))
}

#[test]
fn variants_that_disagree_fail_the_run_and_are_measured_all_the_same() {
    let place = Workplace::new(1);
    let experiment = prepared_experiment(&place);
    edit_tensors(&experiment.join("merged/overlay.safetensors"), |tensors| {
        let tensor = tensors.values_mut().next().unwrap();
        tensor.values.iter_mut().for_each(|value| *value += 0.05);
    });
    let outcome = place.measure(&experiment, &[]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("disagree"), "{}", outcome.stderr);
    assert!(
        outcome.stdout.contains("parity    FAILED"),
        "{}",
        outcome.stdout
    );
    assert!(place.results("lora--lora").is_empty());
    let result = place.result("failed/lora--lora");
    assert_eq!(result["run_info"]["status"], "failed");
    let info = &result["generation_info"];
    assert_eq!(info["parity"]["passed"], false);
    assert_eq!(info["timings_valid"], false);
    let merged = &info["variants"]["merged"]["overhead_pct"]["overall"];
    assert!(merged["pct"].is_f64(), "it is measured nonetheless");
}

#[test]
fn an_adapter_that_changes_nothing_fails_the_run() {
    let place = Workplace::new(1);
    let experiment = prepared_experiment(&place);
    fs::remove_dir_all(experiment.join("merged")).unwrap();
    edit_tensors(
        &experiment.join("unmerged/adapter.safetensors"),
        |tensors| {
            for tensor in tensors.values_mut() {
                tensor.values.fill(0.0);
            }
        },
    );
    let outcome = place.measure(&experiment, &[]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("parity check failed"),
        "{}",
        outcome.stderr
    );
    let result = place.result("failed/lora--lora");
    assert_eq!(result["generation_info"]["parity"]["passed"], false);
}

#[test]
fn verify_compares_merged_with_unmerged() {
    let place = Workplace::new(1);
    let verify = |model_name: &str, name: &str| {
        let (target, base) = (case(model_name, name), model(model_name));
        let arguments = [
            "verify",
            target.to_str().unwrap(),
            "--model",
            base.to_str().unwrap(),
        ];
        run(&mut place.command(&arguments))
    };
    for (model_name, name) in [
        ("llama-gqa", "lora"),
        ("opt-pre", "dora"),
        ("llama-tied", "lora-embed"),
    ] {
        let outcome = verify(model_name, name);
        assert_eq!(outcome.code, Some(0), "{name}: {}", outcome.stderr);
        assert!(
            outcome.stdout.contains("16 of 16 tokens are the same"),
            "{}",
            outcome.stdout
        );
    }
    let outcome = verify("llama-gqa", "prefix-tuning");
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(
        outcome.stdout.contains("not available"),
        "{}",
        outcome.stdout
    );
}
