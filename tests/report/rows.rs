//! Many results as rows: groups, formats, and what's chosen of them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::common::{Outcome, program, read_json, run};
use crate::{all_results, results};

/// `report` with `options`, of all results of the fixtures.
fn reported(options: &[&str]) -> Outcome {
    run(program(["report"]).args(options).args(all_results()))
}

/// The rows of `report` with `options`.
fn rows(options: &[&str]) -> Vec<Value> {
    let outcome = reported(&[&["--format", "jsonl"], options].concat());
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let lines = outcome.stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn texts(rows: &[Value], key: &str) -> Vec<String> {
    let texts = rows.iter().map(|row| row[key].as_str());
    texts
        .map(|text| text.unwrap_or("none").to_owned())
        .collect()
}

/// The path of a changed copy of a result.
fn changed(folder: &Path, name: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
    let mut result = read_json(&results("together")[1]);
    change(&mut result);
    let path = folder.join(name);
    fs::write(&path, result.to_string()).unwrap();
    path
}

#[test]
fn results_that_cannot_be_compared_are_in_groups_that_say_why() {
    let rows = rows(&[]);
    let groups = rows.iter().map(|row| row["group"].as_u64().unwrap());
    assert!(groups.clone().is_sorted() && groups.max() > Some(2));
    for row in &rows {
        let differs_by = row["differs_by"].to_string();
        let is_other = row["batch_size"] != 1 || row["quantization"] != "none";
        assert_eq!(
            differs_by.contains("batch size (2 instead of 1)"),
            row["batch_size"] == 2
        );
        assert_eq!(
            differs_by.contains("quantization (4bit instead of none)"),
            row["quantization"] == "4bit"
        );
        assert!(
            row["group"] != 1 || (differs_by == "[]" && !is_other),
            "{row}"
        );
    }
    let outcome = reported(&[]);
    assert!(
        outcome.stdout.starts_with("group 1 of "),
        "{}",
        outcome.stdout
    );
    let told = "\nnot to be compared with group 1: ";
    assert!(outcome.stdout.contains(told), "{}", outcome.stdout);
    let outcome = reported(&["--format", "markdown"]);
    assert!(
        outcome.stdout.starts_with("### Group 1: "),
        "{}",
        outcome.stdout
    );
    assert!(
        outcome
            .stdout
            .contains("\nNot to be compared with group 1: ")
    );
}

#[test]
fn rows_are_chosen_sorted_and_divided() {
    let chosen = rows(&[
        "--filter",
        "method == \"LORA\" and variant in ('merged', 'unmerged')",
    ]);
    assert!(!chosen.is_empty());
    assert!(
        texts(&chosen, "method")
            .iter()
            .all(|method| method == "LORA")
    );
    assert!(
        texts(&chosen, "variant")
            .iter()
            .all(|variant| variant != "base")
    );
    let below = rows(&["--filter", "overhead < 20"]);
    assert!(!below.is_empty() && below.len() < rows(&["--filter", "overhead != none"]).len());
    assert!(
        below
            .iter()
            .all(|row| row["overhead_pct"].as_f64().unwrap() < 20.0)
    );

    let sorted = rows(&["--sort", "variant,decode_p99:desc"]);
    let first: Vec<&Value> = sorted.iter().filter(|row| row["group"] == 1).collect();
    let keys = first.iter().map(|row| {
        let time = row["decode_p99"].as_f64();
        (
            row["variant"].to_string(),
            time.map_or(0, |time| -(time * 1e9) as i64),
        )
    });
    assert!(keys.is_sorted(), "{first:#?}");

    let outcome = reported(&[
        "--group-by",
        "variant",
        "--columns",
        "experiment,decode_p50",
    ]);
    let divided: Vec<&str> = outcome
        .stdout
        .lines()
        .filter(|line| line.starts_with("variant: "))
        .collect();
    assert_eq!(
        divided[..3],
        ["variant: base", "variant: merged", "variant: unmerged"]
    );
    let headings = outcome
        .stdout
        .lines()
        .find(|line| line.starts_with("experiment"));
    assert_eq!(
        headings.unwrap().split_whitespace().collect::<Vec<_>>(),
        ["experiment", "step", "p50"]
    );
    let none = reported(&["--filter", "overhead > 1e9"]);
    assert_eq!((none.code, none.stdout.as_str()), (Some(0), ""));
    assert!(
        none.stderr.starts_with("note: --filter lets no row of "),
        "{}",
        none.stderr
    );
}

#[test]
fn percentiles_and_overheads_come_from_the_runs() {
    let columns = "file,variant,decode_p50,decode_p90,decode_p95,decode_p99,first_token_p50,first_token_p90,first_token_p95,\
                   first_token_p99,first_token_overhead,decode_overhead";
    let path = &results("together")[1];
    let mut command = program(["report", "--format", "jsonl", "--columns", columns]);
    let outcome = run(command.arg(path));
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let result = read_json(path);
    for line in outcome.stdout.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let variant = row["variant"].as_str().unwrap();
        let categories = &result["generation_info"]["variants"][variant]["by_category"];
        let categories = categories.as_object().unwrap().values();
        let samples = categories.flat_map(|category| category["samples"].as_array().unwrap());
        let runs = samples.flat_map(|sample| sample["individual_runs"].as_array().unwrap());
        let steps = runs
            .clone()
            .flat_map(|run| run["decode_steps"].as_array().unwrap());
        let steps: Vec<f64> = steps.map(|step| step.as_f64().unwrap()).collect();
        let first: Vec<f64> = runs
            .map(|run| run["time_to_first_token"].as_f64().unwrap())
            .collect();
        for (name, values) in [("decode", steps), ("first_token", first)] {
            for percent in [50, 90, 95, 99] {
                let found = row[format!("{name}_p{percent}")].as_f64().unwrap();
                let share = f64::from(percent) / 100.0;
                let below = values
                    .iter()
                    .filter(|value| **value <= found + 1e-12)
                    .count();
                let above = values
                    .iter()
                    .filter(|value| **value >= found - 1e-12)
                    .count();
                let last = (values.len() - 1) as f64;
                assert!(
                    below as f64 >= (share * last).floor() + 1.0,
                    "{name} p{percent}"
                );
                assert!(
                    above as f64 >= last - (share * last).ceil() + 1.0,
                    "{name} p{percent}"
                );
            }
        }
        for overhead in ["first_token_overhead_pct", "decode_overhead_pct"] {
            assert_eq!(row[overhead].is_null(), variant == "base", "{line}");
            let end = |end: &str| row[format!("{overhead}_{end}")].as_f64();
            if let (Some(low), Some(high)) = (end("low"), end("high")) {
                let found = row[overhead].as_f64().unwrap();
                assert!(low <= found && found <= high, "{line}");
            }
        }
    }
}

#[test]
fn every_format_has_the_same_rows() {
    let rows = rows(&[]);
    let csv = reported(&["--format", "csv"]);
    let mut lines = csv.stdout.split("\r\n");
    let keys: Vec<&str> = lines.next().unwrap().split(',').collect();
    let expected: Vec<&String> = rows[0].as_object().unwrap().keys().collect();
    assert_eq!(keys, expected);
    let (method, step) = (place(&keys, "method"), place(&keys, "decode_p50"));
    for (line, row) in lines.filter(|line| !line.is_empty()).zip(&rows) {
        // Those before the first text that may need quotes.
        let fields: Vec<&str> = line.split(',').collect();
        assert_eq!(fields[method], row["method"].as_str().unwrap_or(""));
        let step = fields[step].parse::<f64>().ok();
        assert_eq!(step, row["decode_p50"].as_f64());
    }
    let markdown = reported(&["--format", "markdown"]);
    let table = markdown
        .stdout
        .lines()
        .filter(|line| line.starts_with("| "));
    let groups = rows.last().unwrap()["group"].as_u64().unwrap() as usize;
    assert_eq!(table.count(), rows.len() + 2 * groups);
}

fn place(keys: &[&str], key: &str) -> usize {
    keys.iter().position(|other| *other == key).unwrap()
}

#[test]
fn a_text_that_looks_like_a_formula_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = changed(folder.path(), "=cmd|' _C'!A0.json", |_| ());
    let outcome = run(program(["report", "--format", "csv", "--columns", "experiment"]).arg(&path));
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let row = outcome.stdout.split("\r\n").nth(1).unwrap();
    assert!(row.starts_with("'=cmd|"), "{row}");
}

#[test]
fn the_file_says_the_format_and_is_written_whole() {
    let folder = tempfile::tempdir().unwrap();
    for (name, start) in [
        ("rows.csv", "experiment,"),
        ("rows.md", "### Group 1"),
        ("rows.jsonl", "{\"experiment\":"),
        ("rows.html", "<!doctype html>"),
        ("rows.txt", "group 1 of "),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, "old").unwrap();
        let outcome = reported(&["--output", path.to_str().unwrap()]);
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        assert_eq!(outcome.stdout, "");
        let count = all_results().len();
        let told = format!("wrote {} ({count} results)", path.display());
        assert_eq!(outcome.stderr.trim_end(), told);
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.to_lowercase().starts_with(&start.to_lowercase()),
            "{name}: {text}"
        );
    }
    let outcome = reported(&[
        "--output",
        folder.path().join("no/rows.csv").to_str().unwrap(),
    ]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.error().unwrap().starts_with("cannot write `"));
}

#[test]
fn a_page_has_the_results_of_which_a_row_is_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    let outcome = reported(&[
        "--filter",
        "method == 'IA3'",
        "--output",
        page.to_str().unwrap(),
    ]);
    assert!(
        outcome.stderr.ends_with("page.html (1 result)\n"),
        "{}",
        outcome.stderr
    );
    let outcome = run(program(["report", "--format", "jsonl"]).arg(&page));
    let methods = outcome.stdout.lines().map(|line| {
        let row: Value = serde_json::from_str(line).unwrap();
        row["method"].as_str().map(str::to_owned)
    });
    assert_eq!(methods.collect::<Vec<_>>(), vec![Some("IA3".to_owned()); 5]);
}

#[test]
fn columns_are_listed_with_their_meaning() {
    let outcome = run(&mut program(["report", "--columns", "help"]));
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let line = |key: &str| {
        let mut lines = outcome.stdout.lines();
        lines
            .find(|line| line[2..].starts_with(key))
            .unwrap()
            .to_owned()
    };
    assert!(line("overhead_pct ").starts_with("* overhead_pct"));
    assert!(line("decode_p95 ").contains("  s    "));
    assert!(line("decode_p95 ").ends_with("95 % of all decode steps took no longer"));
}

#[test]
fn options_that_cannot_be_read_are_refused_before_anything_else() {
    for (options, error) in [
        (
            ["--filter", "metod == 'LORA'"],
            "--filter: at character 1 of `metod == 'LORA'`: there is no column `metod`",
        ),
        (
            ["--sort", "decode_p9"],
            "--sort: there is no column `decode_p9` (did you mean `decode_p9",
        ),
        (
            ["--sort", "decode_p99:up"],
            "--sort: `up` is no order; there are `asc` and `desc`",
        ),
        (
            ["--group-by", "methods"],
            "--group-by: there is no column `methods` (did you mean `method`?)",
        ),
        (
            ["--columns", "usual,memory"],
            "--columns: there is no column `memory`",
        ),
    ] {
        let outcome = run(program(["report"]).args(options).arg("no-such-file.json"));
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(
            outcome.stderr.starts_with(&format!("error: {error}")),
            "{outcome:?}"
        );
    }
    let outcome = run(&mut program([
        "report", "--format", "html", "--sort", "method",
    ]));
    assert_eq!(outcome.code, Some(2));
    assert!(
        outcome
            .stderr
            .starts_with("error: --sort: has no meaning for a page")
    );
}

#[test]
fn failed_cancelled_and_damaged_ones_are_a_line_each() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let good = &results("together")[0];
    fs::copy(good, at("ia3--sound.json")).unwrap();
    changed(folder.path(), "lora--halted.json", |result| {
        result["run_info"]["status"] = json!("cancelled");
        result["run_info"]["error"] = json!("interrupted in round 2");
    });
    changed(folder.path(), "lora--starved.json", |result| {
        result["run_info"]["status"] = json!("failed");
        result["run_info"]["error"] = json!("no memory");
        result["generation_info"] = json!({ "variants": {} });
    });
    changed(folder.path(), "lora--later.json", |result| {
        result["schema_version"] = json!(99);
    });
    let text = fs::read_to_string(good).unwrap();
    fs::write(at("damaged.json"), &text[..text.len() / 2]).unwrap();
    fs::copy(&results("earlier")[0], at("lora--oldest.json")).unwrap();
    let no_file = at("none.json");

    for format in ["table", "markdown", "csv", "jsonl", "html"] {
        let mut command = program(["report", "--format", format]);
        let outcome = run(command.arg(folder.path()).arg(&no_file));
        assert_eq!(outcome.code, Some(1), "{format}");
        let errors: Vec<&str> = outcome.stderr.lines().collect();
        assert_eq!(errors.len(), 3, "{format}: {}", outcome.stderr);
        assert!(errors[0].contains("damaged.json` is damaged: "));
        assert!(
            errors[1].starts_with("error: `schema_version` of `") && errors[1].contains(" is 99, ")
        );
        assert!(errors[2].contains("none.json`: No such file"));
        let text = match format {
            "html" => without_script(&outcome.stdout).to_owned(),
            _ => outcome.stdout,
        };
        for name in ["sound", "halted", "starved", "oldest"] {
            assert!(text.contains(name), "{format}, {name}: {text}");
        }
        for why in ["interrupted in round 2", "no memory"] {
            assert!(text.contains(why), "{format}, {why}: {text}");
        }
    }
    let outcome = run(program(["report"]).arg(folder.path()));
    let text = &outcome.stdout;
    assert!(
        text.contains(
            "\nlora/halted was cancelled: interrupted in round 2\nlora/starved failed: no memory\n"
        ),
        "{text}"
    );
    for name in ["sound", "halted", "starved", "oldest"] {
        assert!(
            text.lines().any(|line| line.starts_with(name)),
            "{name}: {text}"
        );
    }
    let mut command = program([
        "report",
        "--format",
        "jsonl",
        "--columns",
        "experiment,status,error,warnings",
    ]);
    let outcome = run(command.arg(at("lora--starved.json")));
    let row: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(
        (
            &row["experiment"],
            &row["status"],
            &row["error"],
            &row["warnings"]
        ),
        (
            &json!("starved"),
            &json!("failed"),
            &json!("no memory"),
            &json!("failed, disturbed")
        )
    );
}

/// What a page shows where scripts don't run.
fn without_script(page: &str) -> &str {
    let text = page.split("<div id=\"static\">").nth(1).unwrap();
    text.split("<script").next().unwrap()
}

#[test]
fn a_result_that_is_named_twice_is_shown_once() {
    let path = &results("together")[0];
    let folder = path.parent().unwrap();
    let once = run(program(["report"]).arg(folder));
    let twice = run(program(["report"]).arg(path).arg(folder));
    assert_eq!(once.stdout, twice.stdout);
}
