//! The contents of a result file.

use std::fs;

use serde_json::{Value, json};

use crate::common::*;
use crate::workplace::Workplace;

#[test]
fn a_result_has_the_sections_of_pefts_suite_and_its_own() {
    let place = Workplace::new(6);
    let outcome = place.measure(&case("llama-gqa", "lora"), &[]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(outcome.stdout.contains("unmerged") && outcome.stdout.contains("overhead"));

    let result = place.result("lora--lora");
    let problems = schema::problems(&result);
    assert!(problems.is_empty(), "{problems:#?}");
    assert_eq!(result["schema_version"], 1);
    // It's read back as it was written.
    let path = place.written(&outcome);
    let read = peft_bench::report::read(&path).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), result);
    assert_eq!(result["run_info"]["status"], "success");
    assert_eq!(result["run_info"]["peft_config"]["peft_type"], "LORA");
    assert_eq!(
        result["run_info"]["benchmark_config"]["num_inference_runs"],
        6
    );
    let info = &result["generation_info"];
    let metrics = &info["by_category"]["long"]["metrics"];
    for key in [
        "inference_time",
        "base_inference_time",
        "time_per_token",
        "time_to_first_token",
    ] {
        assert!(metrics[key].as_f64().unwrap() > 0.0, "{key}: {metrics}");
    }
    assert!(metrics["inference_overhead_pct"].is_f64());
    let roofline = &metrics["roofline"];
    // 4 bytes for each value of the weights (one row of the embedding), the adapter and the cache.
    assert!(roofline["bytes_per_step"].as_f64().unwrap() > 100_000.0);
    let share = |key: &str| roofline[key].as_f64().unwrap();
    let floor = share("bytes_per_step") / share("memory_bytes_per_second");
    let step = metrics["decode_time_per_token"].as_f64().unwrap();
    // The medians of single runs' shares only approximate the share of the medians.
    let ratio = share("decode_pct") / (100.0 * floor / step);
    assert!((0.2..5.0).contains(&ratio), "{metrics}");
    assert_eq!(metrics["generated_tokens"], 4.0);
    let runs = &info["by_category"]["short"]["samples"][0]["individual_runs"];
    assert_eq!(runs.as_array().unwrap().len(), 6);
    assert_eq!(runs[0]["decode_steps"].as_array().unwrap().len(), 3);
    let sum: f64 = runs[0]["decode_steps"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_f64)
        .sum();
    let total = sum + runs[0]["time_to_first_token"].as_f64().unwrap();
    assert!((total - runs[0]["inference_time"].as_f64().unwrap()).abs() < 1e-9);

    // The keys of PEFT's suite describe the unmerged adapter.
    assert_eq!(
        info["by_category"],
        info["variants"]["unmerged"]["by_category"]
    );
    for variant in ["base", "merged", "unmerged"] {
        let memory = &info["variants"][variant]["memory"];
        assert!(memory["peak_ram_memory_mb"].as_f64().unwrap() > 1.0);
        let logs = memory["memory_logs"].as_array().unwrap();
        let stages: Vec<&str> = logs
            .iter()
            .filter_map(|log| log["stage"].as_str())
            .collect();
        let expected = "start session_loaded warmed_up short medium long benchmark_complete";
        assert_eq!(stages.join(" "), expected);
        // A generation allocates its memory from the arena.
        let arena = |index: usize| logs[index]["arena"]["max_in_use_mb"].as_f64();
        assert_eq!(arena(0), None, "nothing is loaded");
        assert!(arena(5).unwrap() > arena(1).unwrap(), "{memory}");
        assert!(logs[5]["arena"]["reserved_mb"].as_f64() >= arena(5));
    }
    let variants = &info["variants"];
    let ready = |variant: &str| {
        let second = |key: &str| variants[variant][key].as_f64().unwrap();
        let laid_out = variants[variant]["lay_out_seconds"].as_f64();
        // The base's weights don't count as its own, since all variants share them.
        assert!(variant == "merged" || laid_out.is_none());
        second("prepare_seconds") + laid_out.unwrap_or(0.0) + second("session_seconds")
    };
    let extra = info["break_even"]["extra_seconds"].as_f64().unwrap();
    assert!((extra - (ready("merged") - ready("unmerged"))).abs() < 1e-9);
    let groups = info["break_even"]["groups"].as_array().unwrap();
    let names: Vec<&Value> = groups.iter().map(|group| &group["group"]).collect();
    assert_eq!(names, ["short", "medium", "long"]);
    assert!(groups[0]["verdict"].is_string() && groups[0]["saving_per_token"].is_f64());
    assert!(outcome.stdout.contains("break-even"), "{}", outcome.stdout);
    let nodes = |variant: &str| {
        let executed = &variants[variant]["executed"]["step"];
        assert_eq!(executed["memory_copies"], 0);
        let providers = executed["nodes"].as_object().unwrap();
        assert_eq!(providers.len(), 1, "all on the processor: {executed}");
        let operators = executed["operators"]["CPUExecutionProvider"]
            .as_object()
            .unwrap();
        let sum: u64 = operators.values().filter_map(Value::as_u64).sum();
        assert_eq!(providers["CPUExecutionProvider"].as_u64(), Some(sum));
        assert_eq!(operators["GroupQueryAttention"], 2, "{executed}");
        sum
    };
    let prompt = &variants["base"]["executed"]["prompt"]["nodes"];
    assert!(
        prompt["CPUExecutionProvider"].as_u64() > Some(10),
        "{prompt}"
    );
    assert_eq!(nodes("base"), nodes("merged"));
    assert!(nodes("unmerged") > nodes("base"), "the adapter has nodes");
    let parity = &info["parity"];
    assert_eq!(parity["passed"], true, "{parity}");
    assert_eq!(
        (&parity["same_tokens"], &parity["of"]),
        (&json!(8), &json!(8))
    );
    assert!(parity["merged_vs_unmerged"].as_f64().unwrap() < 1e-4);
    assert!(parity["adapter_vs_base"].as_f64().unwrap() > 1e-4);
    assert!(parity["adapter_tensors"].as_u64().unwrap() > 0);
    assert_eq!(info["timings_valid"], true);
    let session = &result["run_info"]["session"];
    assert!(!session["allowed_cores"].as_array().unwrap().is_empty());
    let interference = &result["run_info"]["interference"];
    let share = interference["other_processes_share"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&share), "{interference}");
    assert!(interference["disturbed"].is_boolean());
    let environment = &result["run_info"]["environment"];
    let clock_source = &environment["processor"]["clock_source"];
    assert!(clock_source.is_string() || clock_source.is_null());
    assert!(environment["gpu"].is_null());
    assert_eq!(result["run_info"].get("quiet_gate"), Some(&Value::Null));
    let packages = &result["meta_info"]["package_info"];
    assert!(packages["onnxruntime-path"].is_string());
    if let Some(revision) = packages["peft-bench-git-revision"].as_str() {
        let hash = revision.trim_end_matches("-dirty");
        assert!(hash.len() >= 40 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }

    let overhead = &info["variants"]["merged"]["overhead_pct"]["overall"];
    assert_eq!(overhead["pairs"], 18);
    assert_eq!(overhead["interval_pct"].as_array().unwrap().len(), 2);
    assert!(info["variants"]["base"]["overhead_pct"].is_null());

    let counts: Value =
        serde_json::from_slice(&fs::read(case("llama-gqa", "lora").join("case.json")).unwrap())
            .unwrap();
    let parameters = &result["meta_info"]["parameters"];
    assert_eq!(parameters["trainable_params"], counts["trainable_params"]);
    assert_eq!(parameters["total_params"], counts["total_params"]);
    // In PEFT's share of trainable parameters, the total includes the adapter's.
    let [trainable, total] = ["trainable_params", "total_params"].map(|key| counts[key].as_f64());
    let ratio = trainable.unwrap() / total.unwrap();
    assert_eq!(parameters["param_ratio"].as_f64(), Some(ratio));
    assert_eq!(result["meta_info"]["weights"], "trained");
}

#[test]
fn a_method_without_a_merged_variant_says_why() {
    let place = Workplace::new(1);
    let outcome = place.measure(&case("llama-gqa", "prompt-tuning"), &[]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let result = place.result("prompt_tuning--prompt-tuning");
    let merged = &result["generation_info"]["variants"]["merged"];
    assert!(
        merged["absent"]
            .as_str()
            .unwrap()
            .contains("virtual tokens")
    );
}

#[test]
fn a_result_says_which_task_was_measured() {
    let place = Workplace::new(1);
    let experiment = case("llama-gqa", "poly");
    for (options, id) in [(&["--task-id", "2"][..], 2), (&[], 0)] {
        let outcome = place.measure(&experiment, options);
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        let result = read_json(&place.written(&outcome));
        assert_eq!(result["meta_info"]["task"], json!({"id": id, "of": 3}));
        assert_eq!(outcome.stderr.contains("this is task 0"), id == 0);
    }
    let prepared = place.path("exported_models");
    let prepared = only(&prepared.join(&names(&prepared)[0]).join("poly--poly"));
    let outcome = place.measure(&prepared, &["--task-id", "0"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let config = &read_json(&place.written(&outcome))["run_info"]["benchmark_config"];
    assert_eq!(config["task_id"], 0);
    for (target, words) in [
        (prepared, "prepared for task 0 of 3"),
        (case("llama-gqa", "lora"), "has no tasks"),
        (model("llama-gqa"), "`base` has none"),
    ] {
        let outcome = place.measure(&target, &["--task-id", "1"]);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(outcome.stderr.contains(words), "{}", outcome.stderr);
    }
}

#[test]
fn a_fresh_adapter_is_called_that_in_the_table_and_in_the_result() {
    let place = Workplace::new(2);
    let folder = copy_folder(&case("llama-gqa", "lora"), &place.path("adapter"));
    let outcome = place.measure(&folder, &[]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(
        !outcome.stdout.contains("drawn fresh"),
        "{}",
        outcome.stdout
    );
    let trained = place.result("lora--adapter");
    assert_eq!(trained["meta_info"]["adapter"]["weights"], "trained");

    let folder = copy_folder(&folder, &place.path("untrained"));
    make_fresh(&folder);
    let outcome = place.measure(&folder, &[]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(
        outcome.stdout.contains("(drawn fresh) on "),
        "{}",
        outcome.stdout
    );
    let fresh = place.result("lora--untrained");
    assert_eq!(fresh["meta_info"]["adapter"]["weights"], "fresh");
}
