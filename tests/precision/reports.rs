//! What `verify` and a result report about quantization.

use std::fs;

use serde_json::json;

use crate::common::*;

#[test]
fn verify_reports_the_effect_of_quantization_separately_from_parity() {
    let folder = tempfile::tempdir().unwrap();
    for (quantize, all) in [("8bit", true), ("4bit", false)] {
        let mut command = program([
            "verify",
            "--ep",
            "cpu",
            "--threads",
            "1",
            "--quantize",
            quantize,
        ]);
        command
            .arg(case("opt-pre", "lora"))
            .arg("--model")
            .arg(model("opt-pre"));
        let outcome = run(command.arg("--export-dir").arg(folder.path()));
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        let lines: Vec<&str> = outcome.stdout.lines().collect();
        let starts = |start: &str| lines.iter().filter(|line| line.starts_with(start)).count();
        assert_eq!(starts("parity"), 2, "{}", outcome.stdout);
        for variant in ["base ", "unmerged", "merged"] {
            assert_eq!(starts(variant), 1, "{}", outcome.stdout);
        }
        let exact = lines
            .iter()
            .find(|line| line.starts_with("parity"))
            .unwrap();
        assert!(
            exact.contains("1e-4 allowed") && exact.contains("16 of 16"),
            "{exact}"
        );
        let base = lines.iter().find(|line| line.starts_with("base")).unwrap();
        let number = base
            .split("divergence ")
            .nth(1)
            .unwrap()
            .split(' ')
            .next()
            .unwrap();
        let divergence: f64 = number.parse().unwrap();
        let expected = if all { 1e-5..1e-2 } else { 1e-2..1.0 };
        assert!(expected.contains(&divergence), "{base}");
    }
}

#[test]
fn a_result_lists_what_was_quantized_and_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let experiment = copy_folder(
        &case("llama-gqa", "lora"),
        &folder.path().join("lora/small"),
    );
    let params = json!({
        "use_4bit": true, "quantization_head": "4bit", "quantization_embedding": "8bit", "max_new_tokens": 4,
        "num_inference_runs": 2,
    });
    fs::write(experiment.join("benchmark_params.json"), params.to_string()).unwrap();
    let prompts = folder.path().join("prompts.json");
    let texts = json!({ "short": ["a tide"], "medium": ["the flood leads"], "long": ["measure the right one"] });
    fs::write(&prompts, texts.to_string()).unwrap();
    let results = folder.path().join("results");
    let mut command = program(["measure", "--ep", "cpu", "--threads", "1"]);
    command
        .arg(&experiment)
        .arg("--model")
        .arg(model("llama-gqa"));
    command
        .arg("--prompts")
        .arg(&prompts)
        .arg("--output")
        .arg(&results);
    let outcome = run(command
        .arg("--export-dir")
        .arg(folder.path().join("exports")));
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(
        outcome
            .stdout
            .contains("4bit-head-4bit-embedding-8bit weights"),
        "{}",
        outcome.stdout
    );
    let result = read_json(&only(&results.join("lora--small")));
    let found = &result["meta_info"]["quantization"];
    assert_eq!(found["scheme"], "rtn");
    assert_eq!(
        (&found["bits"], &found["block_size"]),
        (&json!(4), &json!(128))
    );
    assert_eq!(
        (&found["accuracy_level"], &found["head"]),
        (&json!(4), &json!("4bit"))
    );
    assert_eq!(found["embedding"], "8bit");
    assert_eq!(found["kv_proj"], "8bit");
    assert_eq!(found["quantized_weights"], 16);
    assert_eq!(found["replaced_by_unmerged"], 0);
    assert_eq!(found["float"], json!(["norms", "biases"]));
    let config = &result["run_info"]["benchmark_config"];
    assert_eq!(
        (&config["use_4bit"], &config["quantization_head"]),
        (&json!(true), &json!("4bit"))
    );
    assert_eq!(config["quantization_embedding"], "8bit");
    assert_eq!(result["generation_info"]["parity"]["norm"], "mean");
    let executed = &result["generation_info"]["variants"]["merged"]["executed"];
    let products = executed["step"]["operators"]["CPUExecutionProvider"]["MatMulNBits"].as_u64();
    // 6 products in each of 2 layers, since gate and up are joined, but not queries and keys, whose
    // formats differ; and the head.
    assert_eq!(products, Some(13), "{executed}");
}
