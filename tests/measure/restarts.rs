//! `--restarts`: all processes are started anew.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::common::*;
use crate::workplace::Workplace;

/// How many runs of a variant's prompt each start has.
fn starts(variant: &Value, category: &str) -> BTreeMap<u64, usize> {
    let mut found = BTreeMap::new();
    let runs = &variant["by_category"][category]["samples"][0]["individual_runs"];
    for run in runs.as_array().unwrap() {
        *found.entry(run["start"].as_u64().unwrap()).or_default() += 1;
    }
    found
}

#[test]
fn every_start_has_all_runs_and_intervals_cover_what_differs_between_them() {
    let place = Workplace::new(2);
    let target = case("llama-gqa", "lora");
    let outcome = place.measure(&target, &["--restarts", "3", "--aa"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(
        outcome
            .stdout
            .contains("starts    3 starts of all processes: intervals cover what differs"),
        "{}",
        outcome.stdout
    );
    let result = place.result("lora--lora");
    assert_eq!(schema::problems(&result), Vec::<String>::new());
    assert_eq!(result["run_info"]["settings"]["restarts"], 3);
    let info = &result["generation_info"];
    for name in ["base", "unmerged", "merged", "base-again"] {
        let variant = &info["variants"][name];
        for category in ["short", "medium", "long"] {
            let expected = BTreeMap::from([(0, 2), (1, 2), (2, 2)]);
            assert_eq!(starts(variant, category), expected, "{name}");
        }
        // One of the shortest prompt as the session is opened, and one of each prompt.
        assert_eq!(variant["warmup_runs"], 3 * 4);
        let logs = variant["memory"]["memory_logs"].as_array().unwrap();
        assert_eq!(logs.len(), 7, "stages that come round again are one each");
    }
    let overhead = &info["variants"]["unmerged"]["overhead_pct"]["overall"];
    assert_eq!(
        (&overhead["starts"], &overhead["covers_starts"]),
        (&3.into(), &true.into())
    );
    assert_eq!(
        (&overhead["pairs"], &overhead["fewest_pairs"]),
        (&18.into(), &6.into())
    );
    // The parity check runs once, on the shortest and on the longest prompt.
    let longest = &info["parity"]["longest"];
    assert_eq!(longest["same_tokens"], longest["of"]);
    let tokens = &info["timed_tokens"];
    // Four subjects with six runs of both prompts.
    assert_eq!(tokens["runs"], 48);
    assert_eq!(tokens["differences"], Value::Array(Vec::new()));
    assert_eq!(tokens["unsteady"], Value::Array(Vec::new()));
    assert_eq!(info["timings_valid"], true);

    // What's computed anew from the runs is computed the same way.
    let path = place.written(&outcome);
    let columns = "starts,variant,overhead,decode_overhead";
    let arguments = ["report", path.to_str().unwrap(), "--format", "csv"];
    let report = run(program(arguments).args(["--columns", columns]));
    assert_eq!(report.code, Some(0), "{}", report.stderr);
    let unmerged = report
        .stdout
        .lines()
        .find(|line| line.starts_with("3,unmerged,"));
    let fields: Vec<&str> = unmerged.unwrap().split(',').collect();
    let pct = overhead["pct"].as_f64().unwrap();
    assert_eq!(fields[2].parse::<f64>().unwrap(), pct);
    let low: f64 = fields[7].parse().unwrap();
    assert!(low < fields[6].parse().unwrap(), "{fields:?}");

    // `compare` draws the starts that one file holds.
    let path = path.to_str().unwrap();
    let compared = run(program(["compare", path, path]).args(["--format", "json"]));
    let compared: Value = serde_json::from_str(&compared.stdout).unwrap();
    let figures = compared["comparisons"][0]["figures"].as_array().unwrap();
    let is_overhead = |figure: &&Value| figure["figure"] == "overhead";
    let mut overheads = figures.iter().filter(is_overhead);
    assert!(overheads.all(|figure| figure["covers_starts"] == true));
}

#[test]
fn one_start_is_told_with_what_covers_more() {
    let place = Workplace::new(1);
    let outcome = place.measure(&case("llama-gqa", "lora"), &[]);
    assert!(!outcome.stdout.contains("starts "), "there's no interval");
    let place = Workplace::new(2);
    let outcome = place.measure(&case("llama-gqa", "lora"), &["--restarts", "2"]);
    assert!(
        outcome.stdout.contains(
            "starts    2 starts of all processes: intervals leave out what differs from one to the next (`--restarts 5` covers it)"
        ),
        "{}",
        outcome.stdout
    );
    let outcome = place.measure(&case("llama-gqa", "lora"), &["--restarts", "0"]);
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
}

#[test]
fn a_base_with_several_starts_is_kept_as_such() {
    let place = Workplace::new(2);
    let base = |restarts: &str| {
        let arguments = ["base", "--prompts", "prompts.json", "--restarts", restarts];
        let outcome = run(&mut place.command(&arguments));
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        outcome.stderr.contains("was measured before")
    };
    assert!(!base("3"));
    assert!(!base("1"));
    assert!(base("3"));
    let options = ["--cached-base", "--restarts", "3"];
    let outcome = place.measure(&case("llama-gqa", "lora"), &options);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let result = place.result("lora--lora");
    let overhead = &result["generation_info"]["variants"]["unmerged"]["overhead_pct"]["overall"];
    assert_eq!(
        (&overhead["paired"], &overhead["covers_starts"]),
        (&false.into(), &true.into())
    );
}
