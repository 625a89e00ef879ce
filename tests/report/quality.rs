//! Published quality beside measured cost.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::common::{Outcome, program, read_json, run};
use crate::results;

/// A result of PEFT's method comparison, whose configuration is that of the measured LoRA after
/// `change`.
fn publish(folder: &Path, name: &str, accuracy: f64, change: impl FnOnce(&mut Value)) {
    let measured = read_json(&results("together")[1]);
    let mut result = json!({
        "run_info": {
            "experiment_name": format!("lora/{name}"),
            "peft_config": measured["run_info"]["peft_config"],
            "train_config": { "model_id": format!("meta/{}", model(&measured).to_uppercase()) },
        },
        "train_info": {
            "metrics": [
                { "valid accuracy": 0.9 },
                { "test accuracy": accuracy, "train loss": 0.6, "forgetting": 0.1 },
            ],
        },
    });
    change(&mut result);
    fs::write(folder.join(format!("{name}.json")), result.to_string()).unwrap();
}

fn model(measured: &Value) -> String {
    let model = measured["meta_info"]["model_id"].as_str().unwrap();
    model.rsplit('/').next().unwrap().to_owned()
}

fn reported(options: &[&str]) -> Outcome {
    run(program(["report"]).args(options).args(results("together")))
}

/// The LoRA's row of the unmerged variant.
fn row(options: &[&str]) -> Value {
    let filter = [
        "--filter",
        "method == 'LORA' and variant == 'unmerged'",
        "--format",
        "jsonl",
    ];
    let outcome = reported(&[options, &filter].concat());
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    serde_json::from_str(&outcome.stdout).unwrap()
}

#[test]
fn an_equal_configuration_has_its_published_quality() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    publish(folder.path(), "same", 0.4814, |result| {
        let config = &mut result["run_info"]["peft_config"];
        config["peft_version"] = json!("0.19");
        // PEFT's default, which the measured one doesn't name.
        config["qalora_group_size"] = json!(16);
    });
    publish(folder.path(), "other", 0.5, |result| {
        result["run_info"]["peft_config"]["r"] = json!(999);
    });
    let found = row(&["--quality", path]);
    assert_eq!(found["quality"], 0.4814);
    assert_eq!(found["quality_metric"], "test accuracy");
    assert_eq!(found["quality_match"], "lora/same, configuration equal");
    let found = row(&["--quality", path, "--quality-metric", "forgetting"]);
    assert_eq!(found["quality"], 0.1);

    // Trained in another way.
    publish(folder.path(), "again", 0.49, |_| ());
    let found = row(&["--quality", path]);
    assert_eq!(found["quality"], 0.49);
    assert_eq!(
        found["quality_match"],
        "lora/again, configuration equal, the best of this and lora/same (0.4814)"
    );
    let outcome = reported(&["--quality", path]);
    assert!(
        outcome.stdout.contains("lora/again, configuration equal"),
        "{}",
        outcome.stdout
    );
    let base = outcome
        .stdout
        .lines()
        .find(|line| line.contains("base"))
        .unwrap();
    assert!(!base.contains("lora/again"), "{base}");
}

#[test]
fn a_near_one_is_named_and_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    publish(folder.path(), "near", 0.5, |result| {
        result["run_info"]["peft_config"]["lora_alpha"] = json!(999);
    });
    let found = row(&["--quality", path]);
    assert!(found["quality"].is_null());
    let matched = found["quality_match"].as_str().unwrap();
    assert!(
        matched.starts_with("none; near is lora/near (0.5000), but: lora_alpha ("),
        "{matched}"
    );
    assert!(matched.ends_with(" instead of 999)"), "{matched}");

    publish(folder.path(), "near", 0.5, |result| {
        result["run_info"]["train_config"]["model_id"] = json!("meta/another");
    });
    let matched = row(&["--quality", path])["quality_match"].to_string();
    assert!(
        matched.contains("near is lora/near (0.5000), but: model ("),
        "{matched}"
    );
    publish(folder.path(), "near", 0.5, |result| {
        result["run_info"]["peft_config"]["peft_type"] = json!("IA3");
    });
    assert!(row(&["--quality", path])["quality_match"].is_null());
}

#[test]
fn scores_of_ones_own_are_matched_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scores.csv");
    fs::write(
        &path,
        "experiment,metric,value\nlora_r8,accuracy,0.4\nia3/default,loss,2.5\n",
    )
    .unwrap();
    let path = path.to_str().unwrap();
    let outcome = reported(&["--quality", path]);
    assert_eq!(outcome.code, Some(1));
    assert!(
        outcome.stderr.contains(
            "has several metrics, `accuracy`, `loss`: choose one with `--quality-metric`"
        ),
        "{}",
        outcome.stderr
    );
    let found = row(&["--quality", path, "--quality-metric", "accuracy"]);
    assert_eq!(
        (&found["quality"], &found["quality_match"]),
        (&json!(0.4), &json!("lora_r8, by name"))
    );
}

#[test]
fn what_is_no_quality_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("other.json"), "{}").unwrap();
    fs::write(at("wrong.csv"), "experiment,metric,value\na,b,high\n").unwrap();
    publish(folder.path(), "good", 0.5, |_| ());
    fs::create_dir(at("empty")).unwrap();
    for (options, error) in [
        (vec!["--quality", &at("none.csv")], "cannot read `"),
        (
            vec!["--quality", &at("empty")],
            "there are no results of PEFT's method comparison in `",
        ),
        (
            vec!["--quality", &at("other.json")],
            "is not a result of PEFT's method comparison: missing field `run_info`",
        ),
        (
            vec!["--quality", &at("wrong.csv")],
            "wrong.csv`: line 2: `high` is not a number",
        ),
        (
            vec!["--quality", &at("good.json"), "--quality-metric", "bleu"],
            "has no metric `bleu`; it has `test accuracy`, `train loss`, `forgetting`",
        ),
    ] {
        let outcome = reported(&options);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(outcome.error().unwrap().contains(error), "{outcome:?}");
    }
    let outcome = reported(&["--quality-metric", "bleu"]);
    assert_eq!(outcome.code, Some(2));
}
