//! `peft-bench compare`

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{Outcome, program, read_json, run};
use crate::{all_results, results};

const RUNS: usize = 12;

/// A result of a machine that is quiet: runs differ by a percent, and both variants take 1.1 times
/// as long as the base. `round` draws other runs of the same program.
fn quiet(round: usize) -> Value {
    let mut result = read_json(&results("together")[1]);
    result["run_info"]["timestamp"] = json!(format!("2026-01-01T00:00:{round:02}Z"));
    result["run_info"]["interference"] = Value::Null;
    let variants = result["generation_info"]["variants"]
        .as_object_mut()
        .unwrap();
    for (place, (name, variant)) in variants.iter_mut().enumerate() {
        let factor = if name.starts_with("base") { 1.0 } else { 1.1 };
        let categories = variant["by_category"].as_object_mut().unwrap();
        for (group, category) in categories.values_mut().enumerate() {
            let runs = (0..RUNS).map(|run| {
                let place = ((round * 10 + place) * 10 + group) * 100 + run;
                let seconds = factor * (1.0 + deviation(place as u64));
                json!({
                    "inference_time": seconds, "generated_tokens": 4, "time_per_token": seconds / 4.0,
                    "time_to_first_token": seconds / 2.0, "memory_bytes_per_second": null,
                    "decode_steps": [seconds / 6.0, seconds / 6.0, seconds / 6.0],
                })
            });
            category["samples"][0]["individual_runs"] = runs.collect();
        }
    }
    result
}

/// A number of up to a percent that seems to be random: SplitMix64's for this place.
fn deviation(place: u64) -> f64 {
    let mut z = (place + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) as f64 / u64::MAX as f64 - 0.5) / 50.0
}

/// Multiplies the times of `variant`.
fn slow(result: &mut Value, variant: &str, factor: f64) {
    let variant = &mut result["generation_info"]["variants"][variant];
    for category in variant["by_category"].as_object_mut().unwrap().values_mut() {
        let runs = &mut category["samples"][0]["individual_runs"];
        for run in runs.as_array_mut().unwrap() {
            let seconds = run["inference_time"].as_f64().unwrap();
            run["inference_time"] = json!(seconds * factor);
        }
    }
}

/// Files of one test.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, name: &str, result: &Value) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, result.to_string()).unwrap();
        path
    }
}

fn compare(old: &Path, new: &Path, options: &[&str]) -> Outcome {
    run(program(["compare"]).arg(old).arg(new).args(options))
}

/// What `compare` says as JSON.
fn compared(old: &Path, new: &Path) -> (Option<i32>, Value) {
    let outcome = compare(old, new, &["--format", "json"]);
    let value: Value = serde_json::from_str(&outcome.stdout)
        .unwrap_or_else(|error| panic!("{error}: {outcome:?}"));
    assert_eq!(value["exit_code"].as_i64(), outcome.code.map(i64::from));
    (outcome.code, value)
}

/// The figure of that name and variant, over all prompts.
fn figure<'a>(comparison: &'a Value, name: &str, variant: &str) -> &'a Value {
    let figures = comparison["figures"].as_array().unwrap();
    let is_it = |figure: &&Value| {
        figure["figure"] == name && figure["variant"] == variant && figure["prompts"].is_null()
    };
    figures.iter().find(is_it).unwrap()
}

#[test]
fn two_measurements_of_the_same_are_no_worse() {
    let files = Files::new();
    let (old, new) = (
        files.put("old.json", &quiet(1)),
        files.put("new.json", &quiet(2)),
    );
    let (code, found) = compared(&old, &new);
    assert_eq!(code, Some(0), "{found:#}");
    let comparison = &found["comparisons"][0];
    assert_eq!(comparison["name"], "new");
    let overhead = figure(comparison, "overhead", "unmerged");
    let [low, high] = [0, 1].map(|end| overhead["interval_pct"][end].as_f64().unwrap());
    assert!(-3.0 < low && low < high && high < 3.0, "{low} … {high}");
    assert!((overhead["old"].as_f64().unwrap() - 10.0).abs() < 2.0);

    let outcome = compare(&old, &new, &[]);
    assert!(
        outcome.stdout.starts_with("new: no worse\nOLD "),
        "{}",
        outcome.stdout
    );
    assert!(
        outcome.stdout.contains(" figures are equal\n"),
        "{}",
        outcome.stdout
    );
    assert!(
        outcome.stdout.contains("\nno worse: "),
        "{}",
        outcome.stdout
    );
}

#[test]
fn a_file_is_no_worse_than_itself_however_noisy() {
    for path in results("together") {
        let outcome = compare(&path, &path, &[]);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert!(
            outcome
                .stdout
                .contains("OLD and NEW are the same measurement")
        );
        assert!(outcome.stdout.contains("was disturbed"));
    }
}

#[test]
fn a_slowdown_is_found_and_less_than_the_margin_is_not() {
    let files = Files::new();
    let old = files.put("old.json", &quiet(1));
    let mut result = quiet(2);
    slow(&mut result, "unmerged", 1.1);
    let new = files.put("new.json", &result);
    let (code, found) = compared(&old, &new);
    assert_eq!(code, Some(1), "{found:#}");
    let comparison = &found["comparisons"][0];
    let unmerged = figure(comparison, "overhead", "unmerged");
    assert_eq!(unmerged["outcome"], "worse");
    assert!((unmerged["change_pct"].as_f64().unwrap() - 10.0).abs() < 2.0);
    assert_eq!(
        figure(comparison, "overhead", "merged")["outcome"],
        "no-worse"
    );
    // Its absolute time is slower too, and decides nothing.
    assert_eq!(
        figure(comparison, "total time", "unmerged")["decides"],
        false
    );

    assert_eq!(compare(&old, &new, &["--margin", "15%"]).code, Some(0));
    // Exchanged, it's better.
    let (code, found) = compared(&new, &old);
    let unmerged = figure(&found["comparisons"][0], "overhead", "unmerged");
    assert_eq!((code, &unmerged["better"]), (Some(0), &json!(true)));
}

/// The runs of `result`, divided into `starts` starts. `shared` is by what factor `unmerged` takes
/// longer in a start.
fn restarted(mut result: Value, starts: usize, shared: impl Fn(usize) -> f64) -> Value {
    let variants = result["generation_info"]["variants"]
        .as_object_mut()
        .unwrap();
    for (name, variant) in variants {
        for category in variant["by_category"].as_object_mut().unwrap().values_mut() {
            let runs = &mut category["samples"][0]["individual_runs"];
            for (index, run) in runs.as_array_mut().unwrap().iter_mut().enumerate() {
                let start = index * starts / RUNS;
                run["start"] = json!(start);
                if name == "unmerged" {
                    let seconds = run["inference_time"].as_f64().unwrap();
                    run["inference_time"] = json!(seconds * shared(start));
                }
            }
        }
    }
    result
}

#[test]
fn starts_within_a_file_are_drawn_as_a_whole() {
    let files = Files::new();
    // By chance, this program's newer starts took longer, each by another amount.
    let luck = |start: usize| [1.0, 1.06, 1.12, 1.18][start];
    let old = restarted(quiet(1), 4, |_| 1.0);
    let new = restarted(quiet(2), 4, luck);
    let (old, new) = (files.put("old.json", &old), files.put("new.json", &new));
    let (code, found) = compared(&old, &new);
    let whole = figure(&found["comparisons"][0], "overhead", "unmerged");
    assert_eq!((code, &whole["covers_starts"]), (Some(3), &json!(true)));

    // Without the starts, the same runs look like a slower program.
    let mut result = read_json(&new);
    result = restarted(result, 1, |_| 1.0);
    let new = files.put("new.json", &result);
    let (code, found) = compared(&old, &new);
    let single = figure(&found["comparisons"][0], "overhead", "unmerged");
    assert_eq!((code, &single["covers_starts"]), (Some(1), &json!(false)));
    assert_eq!(single["note"], "one start");
    assert_eq!(single["change_pct"], whole["change_pct"]);
}

#[test]
fn what_slows_the_base_as_well_is_warned_of() {
    let files = Files::new();
    let mut result = quiet(2);
    for variant in ["base", "unmerged", "merged"] {
        slow(&mut result, variant, 1.5);
    }
    let (old, new) = (
        files.put("old.json", &quiet(1)),
        files.put("new.json", &result),
    );
    let outcome = compare(&old, &new, &[]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(
        outcome.stdout.contains("warning  the base itself took +"),
        "{}",
        outcome.stdout
    );
}

#[test]
fn few_runs_cannot_be_told() {
    let files = Files::new();
    let short = |round| {
        let mut result = quiet(round);
        let variants = result["generation_info"]["variants"]
            .as_object_mut()
            .unwrap();
        for variant in variants.values_mut() {
            for category in variant["by_category"].as_object_mut().unwrap().values_mut() {
                let runs = &mut category["samples"][0]["individual_runs"];
                runs.as_array_mut().unwrap().truncate(4);
            }
        }
        result
    };
    let (old, new) = (
        files.put("old.json", &short(1)),
        files.put("new.json", &short(2)),
    );
    let outcome = compare(&old, &new, &[]);
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert!(
        outcome
            .stdout
            .contains("can't be told: too few pairs: 4 where 5 are needed"),
        "{}",
        outcome.stdout
    );
}

#[test]
fn exact_figures_and_memory_are_told_from_one_reading() {
    let files = Files::new();
    let old = files.put("old.json", &quiet(1));
    let with = |change: &dyn Fn(&mut Value)| {
        let mut result = quiet(2);
        change(&mut result);
        let new = files.put("new.json", &result);
        compared(&old, &new)
    };
    let graph = [
        "generation_info",
        "variants",
        "unmerged",
        "executed",
        "step",
    ];
    let step = |result: &mut Value, key: &str, change: &dyn Fn(&mut Value)| {
        let graph = graph.iter().fold(result, |value, key| &mut value[*key]);
        change(&mut graph[key]["CPUExecutionProvider"]);
    };
    let (code, found) = with(&|result| {
        step(result, "nodes", &|count| {
            *count = json!(count.as_u64().unwrap() + 2)
        });
        step(result, "operators", &|of| of["Cast"] = json!(2));
    });
    let nodes = figure(&found["comparisons"][0], "nodes, step", "unmerged");
    assert_eq!((code, &nodes["outcome"]), (Some(1), &json!("worse")));
    assert_eq!(nodes["note"], "Cast +2");

    let (code, found) = with(&|result| {
        step(result, "nodes", &|count| {
            *count = json!(count.as_u64().unwrap() - 2)
        })
    });
    let nodes = figure(&found["comparisons"][0], "nodes, step", "unmerged");
    assert_eq!((code, &nodes["better"]), (Some(0), &json!(true)));

    // As many others.
    let (code, _) = with(&|result| step(result, "operators", &|of| of["Cast"] = json!(2)));
    assert_eq!(code, Some(3));

    let peak = |mib: f64| {
        with(&|result| {
            let memory = &mut result["generation_info"]["variants"]["merged"]["memory"];
            let before = memory["peak_ram_memory_mb"].as_f64().unwrap();
            memory["peak_ram_memory_mb"] = json!(before + mib);
        })
    };
    assert_eq!(peak(0.4).0, Some(0));
    assert_eq!(peak(5.0).0, Some(1));
}

#[test]
fn what_is_not_comparable_is_refused_and_the_difference_named() {
    let files = Files::new();
    let old = files.put("old.json", &quiet(1));
    let refusal = |change: &dyn Fn(&mut Value)| {
        let mut result = quiet(2);
        change(&mut result);
        let outcome = compare(&old, &files.put("new.json", &result), &[]);
        assert_eq!(outcome.code, Some(3), "{outcome:?}");
        let lines = outcome.stdout.lines();
        let refused: Vec<String> = lines
            .filter_map(|line| line.strip_prefix("refused  "))
            .map(str::to_owned)
            .collect();
        assert_eq!(refused.len(), 1, "{}", outcome.stdout);
        assert!(!outcome.stdout.contains("overhead  "), "{}", outcome.stdout);
        refused[0].clone()
    };
    let meta = |key: &'static str, value: Value| {
        move |result: &mut Value| result["meta_info"][key] = value.clone()
    };
    let session = |key: &'static str, value: Value| {
        move |result: &mut Value| result["run_info"]["session"][key] = value.clone()
    };
    assert_eq!(
        refusal(&meta("dtype", json!("float16"))),
        "dtype differs: float32 in OLD, float16 in NEW"
    );
    assert_eq!(
        refusal(&session("threads", json!(2))),
        "threads differs: 1 in OLD, 2 in NEW"
    );
    assert!(
        refusal(&meta("adapter_form", json!("native"))).contains("form of the adapter differs")
    );
    assert!(
        refusal(&meta("mla", json!("compressed")))
            .ends_with("float32 in OLD, float32, with a compressed cache in NEW")
    );
    assert!(refusal(&session("batch_size", json!(1))).contains("batch size differs: 2"));
    assert!(refusal(&session("weights", json!("resident"))).contains("weights in memory differs"));
    assert!(
        refusal(&|result| result["meta_info"]["parameters"]["base_params"] = json!(1))
            .contains("parameters of the base differs")
    );
    assert!(
        refusal(
            &|result| result["meta_info"]["package_info"]["onnxruntime-version"] = json!("1.0")
        )
        .contains("ONNX Runtime differs")
    );
    assert!(
        refusal(&|result| result["meta_info"]["system_info"]["processor"] = json!("Z80"))
            .contains("processor differs")
    );
    assert!(
        refusal(&|result| {
            let base = &mut result["generation_info"]["variants"]["base"];
            base["by_category"]["long"]["samples"][0]["prompt_tokens"] = json!(999);
        })
        .starts_with("long prompts differs: ")
    );
    assert_eq!(
        refusal(&|result| {
            let variants = &mut result["generation_info"]["variants"];
            for variant in variants.as_object_mut().unwrap().values_mut() {
                let categories = variant["by_category"].as_object_mut().unwrap();
                categories.shift_remove("long");
            }
        }),
        "prompts differ: long, medium, short in OLD, medium, short in NEW"
    );
    assert!(
        refusal(&session("base", json!("cached")))
            .starts_with("NEW: its base was measured earlier")
    );
    assert_eq!(
        refusal(&|result| {
            result["run_info"]["status"] = json!("failed");
            result["run_info"]["error"] = json!("no memory");
            result["generation_info"]["timings_valid"] = json!(false);
        }),
        "NEW: the run failed: no memory"
    );
    assert!(
        refusal(&|result| result["generation_info"]["timings_valid"] = json!(false))
            .starts_with("NEW: the parity check failed")
    );
}

#[test]
fn results_of_earlier_versions_are_compared_by_what_they_say() {
    let new = &results("together")[1];
    for old in all_results() {
        let outcome = compare(&old, new, &[]);
        assert!(matches!(outcome.code, Some(0 | 1 | 3)), "{outcome:?}");
        assert_eq!(outcome.stderr, "", "{}", old.display());
    }
    let first = &results("earlier")[0];
    let outcome = compare(first, first, &[]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
}

#[test]
fn what_cannot_be_read_is_one_clear_line_and_cannot_be_told() {
    let files = Files::new();
    let good = files.put("good.json", &quiet(1));
    let damaged = files.0.path().join("damaged.json");
    fs::write(&damaged, "{").unwrap();
    let absent = files.0.path().join("absent.json");
    for (path, words) in [(&damaged, "is damaged"), (&absent, "cannot read")] {
        for (old, new) in [(&good, path), (path, &good)] {
            let outcome = compare(old, new, &[]);
            assert_eq!(outcome.code, Some(3), "{outcome:?}");
            let told: Vec<&str> = outcome
                .stdout
                .lines()
                .filter(|line| line.contains(words))
                .collect();
            assert_eq!(told.len(), 1, "{}", outcome.stdout);
        }
    }
    let empty = tempfile::tempdir().unwrap();
    let outcome = compare(empty.path(), &good, &[]);
    assert_eq!(outcome.code, Some(3));
    assert!(
        outcome
            .stderr
            .starts_with("error: there are no results in `")
    );
    assert_eq!(compare(&good, &good, &["--margin", "-1%"]).code, Some(2));
}

#[test]
fn folders_are_compared_by_target_and_what_is_missing_is_named() {
    let files = Files::new();
    for name in ["lora--a.json", "lora--b.json", "lora--gone.json"] {
        files.put(&format!("old/{name}"), &quiet(1));
    }
    let mut slower = quiet(2);
    slow(&mut slower, "merged", 1.2);
    files.put("new/lora--a.json", &quiet(2));
    files.put("new/lora--b.json", &slower);
    files.put("new/lora--more.json", &quiet(2));
    let folder = |name: &str| files.0.path().join(name);
    let outcome = compare(&folder("old"), &folder("new"), &[]);
    // Worse weighs more than missing.
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    for line in [
        "lora/a: no worse\n",
        "lora/b: worse\n",
        "missing  lora/gone: NEW has no result of it\n",
        "new      lora/more: OLD has no result of it\n",
    ] {
        assert!(outcome.stdout.contains(line), "{}", outcome.stdout);
    }
    files.put("new/lora--b.json", &quiet(3));
    assert_eq!(compare(&folder("old"), &folder("new"), &[]).code, Some(3));

    let mut failed = quiet(4);
    failed["run_info"]["error"] = json!("killed");
    files.put("new/failed/lora--gone.json", &failed);
    let outcome = compare(&folder("old"), &folder("new"), &[]);
    assert!(
        outcome
            .stdout
            .contains("missing  lora/gone: the run of NEW failed: killed\n")
    );
}

#[test]
fn folders_of_folders_are_starts() {
    let files = Files::new();
    // Every start of a program is slower or quicker as a whole.
    let shares = [0.97, 1.03, 1.0, 0.98, 1.02];
    for (start, share) in shares.into_iter().enumerate() {
        for (side, round, factor) in [("old", 10, 1.0), ("new", 20, 1.0), ("slow", 30, 1.3)] {
            let mut result = quiet(round + start);
            slow(&mut result, "unmerged", share * factor);
            files.put(&format!("{side}/{start}/lora--a.json"), &result);
        }
    }
    let folder = |name: &str| files.0.path().join(name);
    let (code, found) = compared(&folder("old"), &folder("new"));
    let overhead = figure(&found["comparisons"][0], "overhead", "unmerged");
    assert_eq!(overhead["covers_starts"], true);
    assert_eq!(
        code,
        Some(3),
        "starts differ by more than the margin: {found:#}"
    );
    let (code, _) = compared(&folder("old"), &folder("slow"));
    assert_eq!(code, Some(1));
    // One of these starts against another differs by chance, and its interval doesn't cover that.
    let (code, found) = compared(&folder("old/0"), &folder("new/1"));
    let overhead = figure(&found["comparisons"][0], "overhead", "unmerged");
    assert_eq!((code, &overhead["covers_starts"]), (Some(1), &json!(false)));
    assert_eq!(overhead["note"], "one start");
}

#[test]
fn markdown_holds_the_same_rows() {
    let files = Files::new();
    let mut result = quiet(2);
    slow(&mut result, "unmerged", 1.1);
    let (old, new) = (
        files.put("old.json", &quiet(1)),
        files.put("new.json", &result),
    );
    let outcome = compare(&old, &new, &["--format", "markdown"]);
    assert_eq!(outcome.code, Some(1));
    let text = &outcome.stdout;
    assert!(text.starts_with("### peft-bench: worse: 1 of "), "{text}");
    assert!(
        text.contains("\n| figure | variant | prompts | old | new |"),
        "{text}"
    );
    assert!(text.contains("\n| overhead | unmerged | – | +"), "{text}");
    assert!(text.contains("<details><summary>"), "{text}");
    for line in text.lines().filter(|line| line.starts_with('|')) {
        assert_eq!(line.matches(" | ").count(), 7, "{line}");
    }
}
