//! `sweep plan`

use std::fs;

use crate::common::*;
use crate::place::Place;

#[test]
fn a_dry_run_says_what_there_is_to_do_and_what_cannot_run_and_writes_nothing() {
    let place = Place::new(2);
    let outcome = place.plan(
        "cases/lora,cases/prefix-tuning,cases/no-such-one",
        &["--batch-sizes", "1,2", "--dry-run"],
    );
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let said = &outcome.stdout;
    assert!(
        said.contains("6 combinations: 3 jobs, 3 can't be measured"),
        "{said}"
    );
    assert!(said.contains("to be measured     3: roughly"), "{said}");
    assert!(
        said.contains("no merged variant") && said.contains("`cases/no-such-one`"),
        "{said}"
    );
    assert!(
        said.contains("prefix tuning") && said.contains("batch of 2"),
        "{said}"
    );
    assert!(!place.path("sweeps").exists());
}

#[test]
fn a_specification_in_a_file_says_the_same_as_options() {
    let place = Place::new(2);
    let spec = "experiments = [\"cases/lora\"]\ndtypes = [\"float32\", \"bfloat16\"]\nbatch_sizes = [1, 2]\n\
                exclude = [{ dtype = \"bfloat16\", batch_size = 2 }]\n\
                options = [\"--config\", \"config.json\", \"--ep\", \"cpu\", \"--threads\", \"1\", \"--prompts\", \"prompts.json\"]\n";
    fs::write(place.path("spec.toml"), spec).unwrap();
    let outcome = place.sweep(&["plan", "spec.toml", "--to", "one"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    place.planned(
        "cases/lora",
        &[
            "--dtypes",
            "float32,bfloat16",
            "--batch-sizes",
            "1,2",
            "--exclude",
            "dtype=bfloat16,batch_size=2",
        ],
    );
    let keys = |folder: &str| -> Vec<String> {
        let text = fs::read_to_string(place.path(folder).join("plan.jsonl")).unwrap();
        let jobs = text
            .lines()
            .skip(1)
            .map(|line| serde_json::from_str(line).unwrap());
        jobs.map(|job: serde_json::Value| job["key"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(keys("one").len(), 3);
    assert_eq!(keys("one"), keys("sweeps/sweep"));
}

#[test]
fn what_a_sweep_sets_itself_is_refused_as_an_option_of_every_job() {
    let place = Place::new(2);
    let plan = |options: &[&str]| {
        let arguments = [&["plan", "--experiments", "cases/lora", "--"], options].concat();
        place.sweep(&arguments)
    };
    assert_refused(&plan(&["--model", "x"]), &["`--model`", "`--models`"]);
    assert_refused(&plan(&["--cached-base"]), &["`--cached-base`"]);
    assert_refused(&plan(&["--no-such-option"]), &["--no-such-option"]);
    let absent = place.sweep(&["plan", "--experiments", "cases/lora", "--dtypes", "float61"]);
    assert_refused(&absent, &["`float61`", "bfloat16"]);
    let output = place.sweep(&["plan", "--experiments", "cases/lora", "--output", "x"]);
    assert_refused(&output, &["`--output`", "--to"]);
    assert_refused(&place.sweep(&["run"]), &["sweep plan"]);
}

#[test]
fn a_changed_adapter_gets_another_key_and_its_earlier_result_is_told_of() {
    let place = Place::new(2);
    copy_folder(&case("llama-gqa", "lora"), &place.path("mine"));
    place.planned("mine", &["--models", "models/llama-gqa"]);
    assert_eq!(place.sweep(&["run"]).code, Some(0));
    let config = place.path("mine/adapter_config.json");
    let mut json = read_json(&config);
    json["lora_alpha"] = 3.into();
    fs::write(&config, json.to_string()).unwrap();
    place.planned("mine", &["--models", "models/llama-gqa"]);
    let outcome = place.sweep(&["status"]);
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert!(
        outcome
            .stdout
            .contains("1 result of an earlier plan: of an adapter that has changed"),
        "{outcome:?}"
    );
    assert_eq!(place.count("open"), 1);
}
