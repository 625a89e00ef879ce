//! Options that add measurements: `--target-precision`, `--aa`, `--empty` and `--swap`.

use std::path::Path;

use serde_json::Value;

use crate::common::*;
use crate::workplace::Workplace;

#[test]
fn rounds_go_on_until_the_time_is_over_and_the_base_is_measured_against_itself() {
    let place = Workplace::new(2);
    let more = [
        "--target-precision",
        "0.000001%",
        "--max-time",
        "300ms",
        "--aa",
    ];
    let outcome = place.measure(&case("llama-gqa", "lora"), &more);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(
        outcome.stdout.contains("the base against itself"),
        "{}",
        outcome.stdout
    );
    assert!(
        outcome.stdout.contains("the time was over"),
        "{}",
        outcome.stdout
    );
    let result = place.result("lora--lora");
    let precision = &result["run_info"]["target_precision"];
    assert_eq!(precision["met"], false);
    let runs = precision["runs"].as_u64().unwrap();
    assert!(runs >= 2);
    let info = &result["generation_info"];
    let again = &info["variants"]["base-again"];
    let measured = &again["by_category"]["short"]["samples"][0]["individual_runs"];
    assert_eq!(measured.as_array().unwrap().len() as u64, runs);
    assert!(info["aa"]["smallest_detectable_pct"].as_f64().unwrap() > 0.0);
    assert!(info["aa"]["contains_zero"].is_boolean());
    let logs = again["memory"]["memory_logs"].as_array().unwrap();
    assert_eq!(logs.len(), 7, "stages that come round again are one each");

    let outcome = place.measure(&case("llama-gqa", "lora"), &["--target-precision", "0"]);
    assert_eq!(outcome.code, Some(2));
}

#[test]
fn adapters_take_turns_in_one_session_and_a_prefix_cannot() {
    let place = Workplace::new(3);
    for name in ["dora", "prompt-tuning"] {
        let outcome = place.measure(&case("llama-gqa", name), &["--swap=3"]);
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        assert!(outcome.stdout.contains("3 adapters"), "{}", outcome.stdout);
        let stem = if name == "dora" {
            "lora--dora"
        } else {
            "prompt_tuning--prompt-tuning"
        };
        let swap = &place.result(stem)["generation_info"]["swap"];
        assert_eq!(swap["metrics"]["adapters"], 3);
        assert_eq!(swap["loads"].as_array().unwrap().len(), 3);
        // Three rounds of three adapters.
        assert_eq!(swap["swaps"].as_array().unwrap().len(), 9);
        assert_eq!(swap["metrics"]["first_token_overhead"]["pairs"], 9);
        for key in [
            "load_seconds",
            "swap_seconds",
            "first_token_after",
            "first_token_without",
        ] {
            assert!(
                swap["metrics"][key].as_f64().unwrap() > 0.0,
                "{key}: {swap}"
            );
        }
        assert!(swap["metrics"]["adapter_bytes"].as_u64().unwrap() > 500);
    }
    let outcome = place.measure(&case("llama-gqa", "prefix-tuning"), &["--swap"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let result = place.result("prefix_tuning--prefix-tuning");
    let reason = &result["generation_info"]["swap"]["absent"];
    assert!(reason.as_str().unwrap().contains("cache"), "{reason}");
    let outcome = place.measure(&case("llama-gqa", "lora"), &["--swap=1"]);
    assert_eq!(outcome.code, Some(2));
}

#[test]
fn an_adapter_of_zeros_is_the_base_in_the_unmerged_graph() {
    let place = Workplace::new(1);
    for name in ["lora", "dora"] {
        let outcome = place.measure(&case("llama-gqa", name), &["--empty"]);
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        let result = place.result(&format!("lora--{name}"));
        let empty = &result["generation_info"]["variants"]["unmerged-empty"];
        assert!(empty["overhead_pct"]["overall"]["pct"].is_f64(), "{empty}");

        let exported = place.path("exported_models");
        let model = exported.join(&names(&exported)[0]);
        let experiment = only(&model.join(format!("lora--{name}")));
        let (full, zeros) = (
            read_tensors(&experiment.join("unmerged/adapter.safetensors")),
            read_tensors(&experiment.join("unmerged-empty/adapter.safetensors")),
        );
        assert_eq!(full.len(), zeros.len());
        for (tensor, zero) in &zeros {
            assert_eq!(zero.shape, full[tensor].shape);
            let expected = if tensor.contains("magnitude") {
                1.0
            } else {
                0.0
            };
            assert!(zero.values.iter().all(|value| *value == expected));
        }
        assert_eq!(
            name == "dora",
            zeros.keys().any(|key| key.contains("magnitude"))
        );
        let tokens = |folder: &Path, variant: &str| {
            let folder = folder.to_str().unwrap();
            let mut command = place.command(&["generate", folder, "--variant", variant]);
            command.args(["--prompt-ids", "5,9,2", "--max-new-tokens", "8", "--json"]);
            let outcome = run(&mut command);
            assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
            serde_json::from_str::<Value>(&outcome.stdout).unwrap()["token_ids"].clone()
        };
        let of_zeros = tokens(&experiment.join("unmerged-empty"), "unmerged");
        assert_eq!(of_zeros, tokens(&experiment, "base"));
    }
    let outcome = place.measure(&case("llama-gqa", "prompt-tuning"), &["--empty"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("no `unmerged-empty`"),
        "{}",
        outcome.stderr
    );
}
