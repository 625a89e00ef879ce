//! The experiments of PEFT's MetaMathQA results, and what was published of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::common::{program, read_json, run};
use crate::results;

const MODEL: &str = "synthetic/llama-3.2-3b";
const WHOLE: &str = "full-finetuning/llama-3.2-3B-lr_0.00001";

/// Trained with half of its tensors frozen, or pruned by training: PEFT counts others than there are.
const OTHER_COUNTS: [(&str, u64); 2] = [
    ("adalora/llama-3.2-3B-rank32", 8_777_472),
    ("lora/llama-3.2-3B-rank32-lorafa", 9_175_040),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/metamathqa")
}

fn experiments() -> Vec<PathBuf> {
    let entries = fs::read_dir(folder()).unwrap();
    let folders = entries.map(|entry| entry.unwrap().path());
    folders.filter(|path| path.is_dir()).collect()
}

/// What was published, by PEFT's names.
fn published() -> BTreeMap<String, Value> {
    let file = read_json(&folder().join("published.json"));
    let results = file["results"].as_array().unwrap();
    let name = |of: &Value| {
        of["run_info"]["experiment_name"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    results.iter().map(|of| (name(of), of.clone())).collect()
}

/// A result of each experiment, as if it had been measured on `model`.
fn measured_on(model: &str) -> tempfile::TempDir {
    let into = tempfile::tempdir().unwrap();
    let template = read_json(&results("together")[1]);
    for experiment in experiments() {
        let mut result = template.clone();
        result["meta_info"]["model_id"] = json!(model);
        result["run_info"]["peft_config"] = read_json(&experiment.join("adapter_config.json"));
        let name = experiment.file_name().unwrap().to_string_lossy();
        let file = format!("metamathqa--{name}--model--float32--cpu.json");
        fs::write(into.path().join(file), result.to_string()).unwrap();
    }
    into
}

/// Rows of `variant`, by the experiment's name.
fn rows(measured: &Path, variant: &str, options: &[&str]) -> BTreeMap<String, Value> {
    let published = folder().join("published.json");
    let filter = format!("variant == '{variant}'");
    let mut command = program(["report", "--format", "jsonl", "--filter", &filter]);
    command.arg("--quality").arg(published).args(options);
    let outcome = run(command.arg(measured));
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let rows = outcome.stdout.lines().map(|line| {
        let row: Value = serde_json::from_str(line).unwrap();
        (row["experiment"].as_str().unwrap().to_owned(), row)
    });
    rows.collect()
}

/// PEFT's names in the match of a row, the one whose value it has first.
fn names_in(row: &Value) -> Vec<String> {
    let matched = row["quality_match"].as_str().unwrap();
    let parts = matched.split([',', ' ']);
    let names = parts.filter(|part| part.contains("/llama-3.2-3B"));
    names.map(str::to_owned).collect()
}

#[test]
fn every_published_adapter_is_an_experiment_and_its_accuracy_is_found() {
    let measured = measured_on(MODEL);
    let published = published();
    let rows_of = rows(measured.path(), "unmerged", &[]);
    assert_eq!(rows_of.len(), experiments().len());
    let mut found = BTreeSet::new();
    for (name, row) in &rows_of {
        let names = names_in(row);
        let metrics = &published[&names[0]]["train_info"]["metrics"];
        assert_eq!(row["quality"], metrics[0]["test accuracy"], "{name}: {row}");
        let ends = ["quality_low", "quality_high"].map(|key| row[key].as_f64().unwrap());
        let value = row["quality"].as_f64().unwrap();
        assert!(ends[0] <= value && value <= ends[1], "{name}: {row}");
        // It's called as PEFT's, or as one that was trained in another way.
        let short = |of: &String| of.replace("/llama-3.2-3B", "");
        assert!(
            names.iter().any(|of| short(of) == *name),
            "{name}: {names:?}"
        );
        found.extend(names);
    }
    let mut adapters: BTreeSet<String> = published.into_keys().collect();
    assert!(adapters.remove(WHOLE));
    assert_eq!(found, adapters);

    // The model that was trained as a whole costs what the base does.
    for row in rows(measured.path(), "base", &[]).into_values() {
        assert_eq!(names_in(&row), [WHOLE]);
        assert!(
            (row["quality"].as_f64().unwrap() - 0.4716).abs() < 1e-4,
            "{row}"
        );
    }
}

#[test]
fn quality_of_another_model_is_taken_only_if_it_is_asked_for() {
    let measured = measured_on("synthetic/llama-57m");
    let without = rows(measured.path(), "merged", &[]);
    let row = &without["lora-rank32"];
    assert!(row["quality"].is_null());
    let expected = "but: model (synthetic/llama-57m instead of meta-llama/Llama-3.2-3B)";
    let matched = row["quality_match"].as_str().unwrap();
    assert!(matched.ends_with(expected), "{matched}");
    assert!(
        rows(measured.path(), "base", &[])
            .values()
            .all(|row| row["quality"].is_null())
    );

    let asked = ["--quality-model", "meta-llama/Llama-3.2-3B"];
    let with = rows(measured.path(), "merged", &asked);
    assert!(with.values().all(|row| row["quality"].is_f64()));
    let matched = with["ia3-default"]["quality_match"].as_str().unwrap();
    assert_eq!(
        matched,
        "ia3/llama-3.2-3B-lr_0.001, configuration equal, the best of this and ia3/llama-3.2-3B-default (0.3108), of \
         meta-llama/Llama-3.2-3B, 2026-07-15"
    );
    let unknown = rows(measured.path(), "merged", &["--quality-model", "org/other"]);
    let matched = unknown["lora-rank32"]["quality_match"].as_str().unwrap();
    assert!(
        matched.contains("model (org/other instead of "),
        "{matched}"
    );
}

#[test]
fn trainable_parameters_are_those_that_peft_published() {
    let mut command = program(["check"]);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let outcome = run(command.args(experiments()).current_dir(root));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let counts: BTreeMap<String, u64> = outcome
        .stdout
        .lines()
        .map(|line| {
            assert!(line.contains(&format!("fits {MODEL}")), "{line}");
            let name = line.split_whitespace().nth(1).unwrap();
            let (before, _) = line.split_once(" parameters,").unwrap();
            let count = before.rsplit(' ').next().unwrap();
            let name = name.rsplit('/').next().unwrap();
            (name.to_owned(), count.parse().unwrap())
        })
        .collect();
    let published = published();
    let measured = measured_on(MODEL);
    let mut compared = 0;
    for (name, row) in rows(measured.path(), "unmerged", &[]) {
        for peft_name in names_in(&row) {
            let other = OTHER_COUNTS.iter().find(|(of, _)| *of == peft_name);
            let expected = match other {
                Some((_, count)) => Some(*count),
                None => published[&peft_name]["train_info"]["num_trainable_params"].as_u64(),
            };
            assert_eq!(Some(counts[&name]), expected, "{name}, {peft_name}");
            compared += 1;
        }
    }
    assert_eq!(compared, 62);
}
