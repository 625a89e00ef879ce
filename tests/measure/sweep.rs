//! `--batch-size` and `--sweep`: several batch sizes and context lengths.

use serde_json::{Value, json};

use crate::common::*;
use crate::workplace::Workplace;

#[test]
fn every_batch_size_is_measured_with_every_context_length() {
    let place = Workplace::new(5);
    let more = ["--batch-size", "2,3", "--sweep", "16,64"];
    let outcome = place.measure(&case("llama-gqa", "lora"), &more);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(
        outcome.stdout.contains("batches of 2"),
        "{}",
        outcome.stdout
    );
    assert!(
        outcome
            .stdout
            .lines()
            .all(|line| !line.ends_with("MiB") || line.chars().count() <= 100),
        "{}",
        outcome.stdout
    );
    let result = place.result("lora--lora");
    let problems = schema::problems(&result);
    assert!(problems.is_empty(), "{problems:#?}");
    assert_eq!(
        result["run_info"]["benchmark_config"]["batch_size"],
        json!([2, 3])
    );
    assert_eq!(result["run_info"]["session"]["batch_size"], 2);
    let info = &result["generation_info"];
    assert_eq!(info["by_category"]["short"]["metrics"]["batch_size"], 2);
    let sweep = info["sweep"].as_array().unwrap();
    let keys: Vec<(u64, u64)> = sweep
        .iter()
        .map(|entry| {
            let number = |key: &str| entry[key].as_u64().unwrap();
            (number("batch_size"), number("prompt_tokens"))
        })
        .collect();
    assert_eq!(keys, [(2, 16), (2, 64), (3, 16), (3, 64)]);
    for entry in sweep {
        let variants = &entry["variants"];
        let over = &variants["unmerged"]["overhead_pct"];
        assert_eq!(over["pairs"], 5, "{entry}");
        assert!(variants["base"]["overhead_pct"].is_null());
        assert!(
            variants["merged"]["memory"]["peak_ram_mb"]
                .as_f64()
                .unwrap()
                > 1.0
        );
        let metrics = &variants["unmerged"]["metrics"];
        let seconds = |key: &str| metrics[key].as_f64().unwrap();
        let size = entry["batch_size"].as_f64().unwrap();
        let step = seconds("decode_time_per_batch_token") * size;
        assert!((step - seconds("decode_time_per_token")).abs() < 1e-12);
    }
    // A step's cache bytes grow with the batch: two layers of keys and values, two heads of 16,
    // float32.
    let bytes = |index: usize| {
        let metrics = &sweep[index]["variants"]["base"]["metrics"];
        metrics["roofline"]["bytes_per_step"].as_f64().unwrap()
    };
    assert_eq!(bytes(1) - bytes(0), (2 * 48 * 512) as f64);
    assert_eq!(bytes(3) - bytes(2), (3 * 48 * 512) as f64);
}

#[test]
fn a_list_of_batch_sizes_alone_sweeps_the_categories() {
    let place = Workplace::new(1);
    let outcome = place.measure(&case("llama-gqa", "lora"), &["--batch-size", "1,2"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let info = &place.result("lora--lora")["generation_info"];
    let sweep = info["sweep"].as_array().unwrap();
    let key = |entry: &Value| {
        format!(
            "{} {}",
            entry["batch_size"],
            entry["prompts"].as_str().unwrap()
        )
    };
    let keys: Vec<String> = sweep.iter().map(key).collect();
    assert_eq!(
        keys,
        [
            "1 short", "1 medium", "1 long", "2 short", "2 medium", "2 long"
        ]
    );
    // The first batch size isn't measured again for the sweep.
    let time = |metrics: &Value| metrics["inference_time"].as_f64().unwrap();
    assert_eq!(
        time(&sweep[2]["variants"]["base"]["metrics"]),
        time(&info["variants"]["base"]["by_category"]["long"]["metrics"])
    );
}
