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
    for (model_name, name, prompt) in [
        (
            "llama-gqa",
            "lora",
            "the first medium prompt, by the base's tokenizer",
        ),
        (
            "opt-pre",
            "dora",
            "24 tokens: spread over the vocabulary, in place of text: ",
        ),
        (
            "llama-tied",
            "lora-embed",
            "has no tokenizer of a supported kind",
        ),
    ] {
        let outcome = verify(model_name, name);
        let first = outcome.stdout.lines().next().unwrap();
        assert!(
            first.starts_with("prompt ") && first.contains(prompt),
            "{first}"
        );
        let effect = outcome.stdout.lines().nth(1).unwrap();
        assert!(
            effect.contains(" KL divergence ") && effect.ends_with(" of 16 steps"),
            "{effect}"
        );
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

#[test]
fn verify_takes_text_or_token_ids() {
    let place = Workplace::new(1);
    let (target, base) = (case("llama-gqa", "lora"), model("llama-gqa"));
    let verify = |options: &[&str]| {
        let mut command = place.command(&["verify", target.to_str().unwrap()]);
        run(command.arg("--model").arg(&base).args(options))
    };
    for (options, about) in [
        (["--prompt", "a tide"], "tokens: the text that was given"),
        (["--prompt-ids", "3,5"], "2 token ids, as given"),
    ] {
        let outcome = verify(&options);
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        let first = outcome.stdout.lines().next().unwrap();
        assert!(
            first.starts_with("prompt ") && first.ends_with(about),
            "{first}"
        );
    }
    // A tokenizer that was asked for isn't replaced by anything.
    let refused = verify(&["--tokenizer", "adapter"]);
    assert_eq!(refused.code, Some(1), "{}", refused.stdout);
    assert!(
        refused.stderr.contains("has no tokenizer"),
        "{}",
        refused.stderr
    );
}
