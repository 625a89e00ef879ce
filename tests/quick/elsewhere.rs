//! The program in a folder where none of its files are, as after `cargo install` or from a wheel.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::common::*;

fn run_in<const N: usize>(folder: &Path, args: [&str; N]) -> Outcome {
    run(program(args).current_dir(folder))
}

#[test]
fn check_without_experiments_here_checks_those_that_are_built_in() {
    let here = tempfile::tempdir().unwrap();
    let outcome = run_in(here.path(), ["check"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stdout.contains("lora/lora_r8 "), "{outcome:?}");
    assert!(outcome.stderr.contains("built-in"), "{outcome:?}");
    let shipped = run_in(
        Path::new(env!("CARGO_MANIFEST_DIR")),
        ["check", "lora/lora_r8"],
    );
    let line = shipped.stdout.lines().next().unwrap().split_whitespace();
    let line: Vec<&str> = line.collect();
    let same = |other: &str| other.split_whitespace().collect::<Vec<_>>() == line;
    assert!(outcome.stdout.lines().any(same), "{outcome:?}\n{shipped:?}");
}

#[test]
fn a_built_in_experiment_is_measured_with_built_in_prompts_and_parameters() {
    let here = tempfile::tempdir().unwrap();
    let base = copy_folder(&model("llama-gqa"), &here.path().join("base"));
    // Room for prompts of every length.
    set_key(
        &base.join("config.json"),
        "max_position_embeddings",
        json!(4096),
    );
    let outcome = run_in(here.path(), ["measure", "lora/lora_r8", "--model", "base"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let results = called(&here.path().join("results/lora--lora_r8--base"));
    let result = read_json(&results[0]);
    assert_eq!(result["run_info"]["status"], "success");
    let groups = &result["generation_info"]["by_category"];
    let names: Vec<&String> = groups.as_object().unwrap().keys().collect();
    assert_eq!(names, ["short", "medium", "long"]);
}

#[test]
fn an_experiment_here_comes_before_the_built_in_one() {
    let here = tempfile::tempdir().unwrap();
    let own = here.path().join("experiments/lora/lora_r8");
    fs::create_dir_all(&own).unwrap();
    let config = json!({"peft_type": "LORA", "r": 1, "target_modules": ["q_proj"]});
    fs::write(own.join("adapter_config.json"), config.to_string()).unwrap();
    let parameters = |outcome: &Outcome| {
        let parts = outcome.stdout.split(", ");
        let found = parts
            .into_iter()
            .find_map(|part| part.strip_suffix(" parameters"));
        found.and_then(|number| number.parse::<usize>().ok())
    };
    let with_own = run_in(here.path(), ["check", "lora/lora_r8"]);
    fs::remove_dir_all(here.path().join("experiments")).unwrap();
    let without = run_in(here.path(), ["check", "lora/lora_r8"]);
    let numbers = (parameters(&with_own), parameters(&without));
    assert!(numbers.0.is_some() && numbers.0 < numbers.1, "{numbers:?}");
}

#[test]
fn an_unknown_experiment_names_the_nearest_that_are_built_in() {
    let here = tempfile::tempdir().unwrap();
    let outcome = run_in(here.path(), ["prepare", "lora/lora_r9", "--offline"]);
    assert_refused(
        &outcome,
        &["`lora/lora_r9`", "did you mean `lora/lora_r8`", "built in"],
    );
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let here = tempfile::tempdir().unwrap();
    let file = here.path().join("file");
    fs::write(&file, "").unwrap();
    let mut command = program(["prepare", "lora/lora_r8", "--offline"]);
    let outcome = run(command
        .current_dir(here.path())
        .env("PEFT_BENCH_CACHE", &file));
    assert_refused(&outcome, &["built-in experiments", "PEFT_BENCH_CACHE"]);
}
