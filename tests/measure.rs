//! `measure`, `base` and `verify` through the built program: results, and what ends a run early.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{Outcome, case, edit_tensors, model, names, program, read_tensors, run};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A working folder with short prompts and few runs, for the fixture model that has a tokenizer.
struct Workplace {
    folder: TempDir,
}

impl Workplace {
    fn new(runs: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let prompts = json!({
            "short": ["a b"], "medium": ["the cat sat"], "long": ["one two three four five"],
        });
        let config = json!({
            "model_id": model("llama-gqa"),
            "dtype": "float32",
            "seed": 1,
            "max_new_tokens": 4,
            "num_inference_runs": runs,
            "num_prompt_samples": 1,
        });
        let write = |name: &str, value: &Value| {
            fs::write(folder.path().join(name), value.to_string()).unwrap();
        };
        write("prompts.json", &prompts);
        write("config.json", &config);
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program(arguments);
        command.current_dir(self.folder.path()).args([
            "--config",
            "config.json",
            "--ep",
            "cpu",
            "--threads",
            "1",
        ]);
        command
    }

    fn measure(&self, target: &Path, more: &[&str]) -> Outcome {
        let target = target.to_str().unwrap();
        let mut arguments = vec!["measure", target, "--prompts", "prompts.json"];
        arguments.extend(more);
        run(&mut self.command(&arguments))
    }

    fn measure_all(&self, targets: &[&Path], more: &[&str]) -> Outcome {
        let targets = targets.iter().map(|target| target.to_str().unwrap());
        let mut arguments = vec!["measure"];
        arguments.extend(targets);
        arguments.extend(["--prompts", "prompts.json"]);
        arguments.extend(more);
        run(&mut self.command(&arguments))
    }

    fn result(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path("results").join(name)).unwrap()).unwrap()
    }

    /// Starts a measurement that would take very long, and waits until its workers run.
    #[expect(clippy::zombie_processes, reason = "the caller waits for it")]
    fn start_long(&self) -> (std::process::Child, Vec<i32>) {
        let target = case("llama-gqa", "lora");
        let arguments = [
            "measure",
            target.to_str().unwrap(),
            "--prompts",
            "prompts.json",
        ];
        let child = self
            .command(&arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let started = Instant::now();
        loop {
            let workers = workers_of(child.id());
            if workers.len() == 3 {
                // Until the last of them has its session, its death would be one while opening.
                sleep(Duration::from_millis(500));
                return (child, workers);
            }
            assert!(started.elapsed() < Duration::from_secs(60), "no workers");
            sleep(Duration::from_millis(5));
        }
    }
}

/// Process ids of the children of `parent`, in the order they were started.
fn workers_of(parent: u32) -> Vec<i32> {
    let mut found: Vec<i32> = names(Path::new("/proc"))
        .iter()
        .filter_map(|name| name.parse().ok())
        .filter(|id: &i32| {
            let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            let fields = stat.rsplit(')').next().unwrap_or_default();
            fields.split_whitespace().nth(1) == Some(parent.to_string().as_str())
        })
        .collect();
    found.sort_unstable();
    found
}

fn kill(id: i32, signal: &str) {
    let status = Command::new("kill")
        .args([signal, &id.to_string()])
        .status();
    assert!(status.unwrap().success());
}

fn ended(mut child: std::process::Child) -> (Option<i32>, String) {
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(started.elapsed() < Duration::from_secs(60), "it goes on");
        sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn a_result_has_the_sections_of_pefts_suite_and_its_own() {
    let place = Workplace::new(6);
    let outcome = place.measure(&case("llama-gqa", "lora"), &[]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(outcome.stdout.contains("unmerged") && outcome.stdout.contains("overhead"));

    let result = place.result("lora--lora.json");
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
    // 4 bytes of each weight but the embedding's other rows, and of the adapter and the cache.
    assert!(roofline["bytes_per_step"].as_f64().unwrap() > 100_000.0);
    let share = |key: &str| roofline[key].as_f64().unwrap();
    let floor = share("bytes_per_step") / share("memory_bytes_per_second");
    let step = metrics["decode_time_per_token"].as_f64().unwrap();
    // Medians of single runs' shares, so only about the share of the medians.
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

    // What PEFT's suite measures is the unmerged adapter.
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
        // What a generation allocates comes from the arena.
        let arena = |index: usize| logs[index]["arena"]["max_in_use_mb"].as_f64();
        assert_eq!(arena(0), None, "nothing is loaded");
        assert!(arena(5).unwrap() > arena(1).unwrap(), "{memory}");
        assert!(logs[5]["arena"]["reserved_mb"].as_f64() >= arena(5));
    }
    let variants = &info["variants"];
    let ready = |variant: &str| {
        let second = |key: &str| variants[variant][key].as_f64().unwrap();
        let laid_out = variants[variant]["lay_out_seconds"].as_f64();
        // The base's weights, which all share, aren't its own.
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
    // PEFT's share of trained parameters counts the adapter's own among all.
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
    let result = place.result("prompt_tuning--prompt-tuning.json");
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
        let result = place.result("poly--poly.json");
        assert_eq!(result["meta_info"]["task"], json!({"id": id, "of": 3}));
        assert_eq!(outcome.stderr.contains("this is task 0"), id == 0);
    }
    let prepared = place.path("exported_models");
    let prepared = prepared.join(&names(&prepared)[0]).join("poly--poly");
    let outcome = place.measure(&prepared, &["--task-id", "0"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let config = &place.result("poly--poly.json")["run_info"]["benchmark_config"];
    assert_eq!(config["task_id"], 0);
    for (target, words) in [
        (prepared, "prepared for task 0 of 3"),
        (case("llama-gqa", "lora"), "doesn't know tasks"),
        (model("llama-gqa"), "`base` has none"),
    ] {
        let outcome = place.measure(&target, &["--task-id", "1"]);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(outcome.stderr.contains(words), "{}", outcome.stderr);
    }
}

#[test]
fn ctrl_c_ends_as_cancelled_and_the_next_run_works() {
    let place = Workplace::new(1000);
    let (child, workers) = place.start_long();
    kill(child.id() as i32, "-INT");
    let (code, stderr) = ended(child);
    assert_eq!(code, Some(130), "{stderr}");
    let result = place.result("failed/lora--lora.json");
    assert_eq!(result["run_info"]["status"], "cancelled");
    assert!(!place.path("results/lora--lora.json").exists());
    for worker in workers {
        assert!(
            !Path::new(&format!("/proc/{worker}/cmdline")).exists(),
            "a worker is left"
        );
    }

    let config = place.path("config.json");
    let shorter = fs::read_to_string(&config).unwrap().replace("1000", "2");
    fs::write(&config, shorter).unwrap();
    let outcome = place.measure(&case("llama-gqa", "lora"), &[]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
}

#[test]
fn a_killed_worker_fails_the_run_and_leaves_the_earlier_result() {
    let place = Workplace::new(1000);
    fs::create_dir(place.path("results")).unwrap();
    fs::write(place.path("results/lora--lora.json"), "earlier").unwrap();
    let (child, workers) = place.start_long();
    kill(workers[0], "-KILL");
    let (code, stderr) = ended(child);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(
        stderr.contains("signal 9") && stderr.contains("base"),
        "{stderr}"
    );
    let result = place.result("failed/lora--lora.json");
    assert_eq!(result["run_info"]["status"], "failed");
    assert!(
        result["run_info"]["error"]
            .as_str()
            .unwrap()
            .contains("signal 9")
    );
    assert_eq!(
        fs::read_to_string(place.path("results/lora--lora.json")).unwrap(),
        "earlier"
    );
}

#[test]
fn a_killed_parent_takes_its_workers_along() {
    let place = Workplace::new(1000);
    let (child, workers) = place.start_long();
    kill(child.id() as i32, "-KILL");
    ended(child);
    let started = Instant::now();
    let alive = |id: &&i32| Path::new(&format!("/proc/{id}/cmdline")).exists();
    while workers.iter().any(|id| alive(&id)) {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "a worker is left"
        );
        sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_base_is_measured_once_until_something_changes() {
    let place = Workplace::new(2);
    let base = |more: &[&str]| {
        let mut arguments = vec!["base", "--prompts", "prompts.json"];
        arguments.extend(more);
        let outcome = run(&mut place.command(&arguments));
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        outcome.stderr.contains("was measured before")
    };
    assert!(!base(&[]));
    assert!(base(&[]));
    assert!(!base(&["--force"]));
    assert!(!base(&["--weights", "resident"]));
    assert_eq!(names(&place.path("results/base")).len(), 2);

    let outcome = place.measure(&case("llama-gqa", "lora"), &["--cached-base"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let result = place.result("lora--lora.json");
    assert_eq!(result["run_info"]["session"]["base"], "cached");
    let overhead = &result["generation_info"]["variants"]["unmerged"]["overhead_pct"]["overall"];
    assert_eq!(overhead["paired"], false);

    let outcome = place.measure(
        &case("llama-gqa", "lora"),
        &["--cached-base", "--weights", "resident"],
    );
    assert!(
        !outcome.stderr.contains("no earlier measurement"),
        "{}",
        outcome.stderr
    );
    let config = place.path("config.json");
    let changed = fs::read_to_string(&config)
        .unwrap()
        .replace("\"max_new_tokens\":4", "\"max_new_tokens\":5");
    fs::write(&config, changed).unwrap();
    let outcome = place.measure(&case("llama-gqa", "lora"), &["--cached-base"]);
    assert!(
        outcome.stderr.contains("no earlier measurement"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn prepared_folders_and_merged_checkpoints_are_measured_too() {
    let place = Workplace::new(1);
    let target = case("llama-gqa", "lora");
    let target = target.to_str().unwrap();
    let outcome =
        run(&mut place.command(&["prepare", target, "--format", "onnx", "--format", "hf"]));
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let exported = place.path("exported_models");
    let experiment = exported.join(&names(&exported)[0]).join("lora--lora");

    let outcome = place.measure(&experiment, &[]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let result = place.result("lora--lora.json");
    let variants = result["generation_info"]["variants"].as_object().unwrap();
    assert!(variants.contains_key("merged") && variants.contains_key("unmerged"));
    assert!(variants.contains_key("base"));

    let checkpoint = experiment.join("checkpoint");
    let base = model("llama-gqa");
    let outcome = place.measure(&checkpoint, &["--model", base.to_str().unwrap()]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let result = place.result("checkpoint--checkpoint.json");
    let variants = result["generation_info"]["variants"].as_object().unwrap();
    assert!(variants["merged"]["overhead_pct"]["overall"]["pct"].is_f64());
    let outcome = place.measure(&checkpoint, &[]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
}

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
    let result = place.result("lora--lora.json");
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
    let result = place.result("lora--lora.json");
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
    // The cache of a step grows with the batch: two layers of keys and values, two heads of 16, float32.
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
    let info = &place.result("lora--lora.json")["generation_info"];
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
    // The first batch size is measured once.
    let time = |metrics: &Value| metrics["inference_time"].as_f64().unwrap();
    assert_eq!(
        time(&sweep[2]["variants"]["base"]["metrics"]),
        time(&info["variants"]["base"]["by_category"]["long"]["metrics"])
    );
}

#[test]
fn batches_and_contexts_that_cannot_be_run_are_refused_before_anything_is_measured() {
    let place = Workplace::new(1);
    let prefix = place.measure(
        &case("llama-gqa", "prefix-tuning"),
        &["--batch-size", "1,4"],
    );
    assert_eq!(prefix.code, Some(1));
    assert!(prefix.stderr.contains("batch of 4"), "{}", prefix.stderr);
    let long = place.measure(&case("llama-gqa", "lora"), &["--sweep", "16,400"]);
    assert_eq!(long.code, Some(1));
    assert!(
        long.stderr.contains("prompts of 400 tokens"),
        "{}",
        long.stderr
    );
    assert!(!long.stderr.contains("measuring"), "{}", long.stderr);
    let zero = place.measure(&case("llama-gqa", "lora"), &["--batch-size", "0"]);
    assert_eq!(zero.code, Some(2));
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
        let swap = &place.result(&format!("{stem}.json"))["generation_info"]["swap"];
        assert_eq!(swap["metrics"]["adapters"], 3);
        assert_eq!(swap["loads"].as_array().unwrap().len(), 3);
        // Three rounds of three.
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
    let result = place.result("prefix_tuning--prefix-tuning.json");
    let reason = &result["generation_info"]["swap"]["absent"];
    assert!(reason.as_str().unwrap().contains("cache"), "{reason}");
    let outcome = place.measure(&case("llama-gqa", "lora"), &["--swap=1"]);
    assert_eq!(outcome.code, Some(2));
}

#[test]
fn experiments_with_the_same_parameters_are_measured_against_one_base() {
    let place = Workplace::new(5);
    let [lora, dora, prompt] =
        ["lora", "dora", "prompt-tuning"].map(|name| case("llama-gqa", name));
    let other = place.path("other");
    common::copy_folder(&lora, &other);
    fs::write(
        other.join("benchmark_params.json"),
        r#"{"num_inference_runs": 1}"#,
    )
    .unwrap();
    let missing = place.path("missing");
    let targets = [&lora, &dora, &missing, &prompt, &other].map(PathBuf::as_path);
    let outcome = place.measure_all(&targets, &["--sweep", "16"]);
    // The others are measured all the same.
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

    let result = |stem: &str| place.result(&format!("{stem}.json"))["generation_info"].clone();
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
fn an_experiment_that_fails_leaves_those_beside_it_alone() {
    let place = Workplace::new(1);
    let (good, bad) = (case("llama-gqa", "lora"), place.path("bad"));
    common::copy_folder(&good, &bad);
    edit_tensors(&bad.join("adapter_model.safetensors"), |tensors| {
        for tensor in tensors.values_mut() {
            tensor.values.fill(0.0);
        }
    });
    let outcome = place.measure_all(&[&good, &bad], &[]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("lora--bad"), "{}", outcome.stderr);
    assert_eq!(
        place.result("lora--lora.json")["run_info"]["status"],
        "success"
    );
    assert_eq!(
        place.result("failed/lora--bad.json")["run_info"]["status"],
        "failed"
    );
    assert!(!place.path("results/lora--bad.json").exists());
}

#[test]
fn an_adapter_of_zeros_is_the_base_in_the_unmerged_graph() {
    let place = Workplace::new(1);
    for name in ["lora", "dora"] {
        let outcome = place.measure(&case("llama-gqa", name), &["--empty"]);
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        let result = place.result(&format!("lora--{name}.json"));
        let empty = &result["generation_info"]["variants"]["unmerged-empty"];
        assert!(empty["overhead_pct"]["overall"]["pct"].is_f64(), "{empty}");

        let exported = place.path("exported_models");
        let experiment = exported
            .join(&names(&exported)[0])
            .join(format!("lora--{name}"));
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

/// A prepared folder whose files are then changed by the caller.
fn prepared_experiment(place: &Workplace) -> PathBuf {
    let target = case("llama-gqa", "lora");
    let outcome = run(&mut place.command(&["prepare", target.to_str().unwrap()]));
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let exported = place.path("exported_models");
    exported.join(&names(&exported)[0]).join("lora--lora")
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
    assert!(!place.path("results/lora--lora.json").exists());
    let result = place.result("failed/lora--lora.json");
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
    let result = place.result("failed/lora--lora.json");
    assert_eq!(result["generation_info"]["parity"]["passed"], false);
}

#[test]
fn a_prompt_that_is_too_long_is_an_error_in_a_failed_result() {
    let place = Workplace::new(1);
    let prompts = json!({
        "short": ["a b"], "medium": ["the cat"], "long": ["abcdefgh ".repeat(200)],
    });
    fs::write(place.path("prompts.json"), prompts.to_string()).unwrap();
    let outcome = place.measure(&case("llama-gqa", "lora"), &[]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stdout);
    assert!(
        outcome.stderr.contains("positions") && outcome.stderr.contains("`long`"),
        "{}",
        outcome.stderr
    );
    let result = place.result("failed/lora--lora.json");
    assert_eq!(result["run_info"]["status"], "failed");
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
