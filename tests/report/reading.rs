//! Reading results, and writing them again.

use std::fs;

use peft_bench::report::{self, model::SCHEMA_VERSION};
use serde_json::{Value, json};

use crate::common::{read_json, schema};
use crate::{all_results, results};

#[test]
fn every_version_is_written_as_it_was_read() {
    for path in all_results() {
        let before = read_json(&path);
        let report = report::read(&path).unwrap_or_else(|error| panic!("{error}"));
        let after = serde_json::to_value(&report).unwrap();

        let mut expected = json!({ "schema_version": 0 });
        let sections = expected.as_object_mut().unwrap();
        sections.extend(before.as_object().unwrap().clone());
        // As text, since the order of keys counts.
        assert_eq!(
            after.to_string(),
            expected.to_string(),
            "{}",
            path.display()
        );
    }
}

#[test]
fn every_version_fits_the_schema() {
    for path in all_results() {
        let problems = schema::problems(&read_json(&path));
        assert!(problems.is_empty(), "{}: {problems:#?}", path.display());
    }
}

#[test]
fn the_schema_refuses_what_is_no_result() {
    let good = read_json(&results("alone")[0]);
    let wrong = |change: &dyn Fn(&mut Value)| {
        let mut result = good.clone();
        change(&mut result);
        schema::problems(&result)
    };
    assert!(wrong(&|_| ()).is_empty());
    assert_eq!(
        wrong(&|result| result["run_info"]["status"] = json!("fine")).len(),
        1
    );
    assert_eq!(
        wrong(&|result| result["run_info"]["duration"] = json!("1 s")).len(),
        1
    );
    assert_eq!(
        wrong(&|result| result["meta_info"]["colour"] = json!("red")).len(),
        1
    );
    assert_eq!(
        wrong(&|result| result["meta_info"] = json!({})),
        ["`result.meta_info.system_info` is missing"]
    );
}

/// The error of a file with `text`.
#[track_caller]
fn refusal(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("result.json");
    fs::write(&path, text).unwrap();
    let error = report::read(&path).unwrap_err();
    let error = anyhow::Error::from(error);
    format!("{error:#}").replace(path.to_str().unwrap(), "result.json")
}

#[test]
fn what_cannot_be_read_is_told_with_the_key() {
    assert_eq!(
        refusal("{\"run_info\": {}"),
        "`result.json` is damaged: EOF while parsing an object at line 1 column 15"
    );
    for text in ["{}", "[1]", "7", r#"{"key": {}, "record": {}}"#] {
        assert_eq!(
            refusal(text),
            "`result.json` is not a result: it has no `run_info`"
        );
    }
    assert_eq!(
        refusal(r#"{"run_info": {}, "generation_info": {}}"#),
        "`result.json` is not a result: it has no `meta_info`"
    );

    let good = read_json(&results("alone")[0]);
    let with = |pointer: &str, value: Value| {
        let mut result = good.clone();
        match result.pointer_mut(pointer) {
            Some(place) => *place = value,
            None => result[&pointer[1..]] = value,
        }
        refusal(&result.to_string())
    };
    assert_eq!(
        with("/schema_version", json!(SCHEMA_VERSION + 1)),
        format!(
            "`schema_version` of `result.json` is {}, and this version of peft-bench reads those up to {SCHEMA_VERSION}",
            SCHEMA_VERSION + 1
        )
    );
    assert_eq!(
        with("/run_info/duration", json!("1 s")),
        "`run_info.duration` of `result.json` is wrong: invalid type: string \"1 s\", expected f64"
    );
    assert_eq!(
        with(
            "/generation_info/variants/base/memory/peak_ram_memory_mb",
            json!([])
        ),
        "`generation_info.variants.base.memory.peak_ram_memory_mb` of `result.json` is wrong: invalid type: sequence, \
         expected f64"
    );
    assert_eq!(
        with("/meta_info", json!({})),
        "`meta_info` of `result.json` is wrong: missing field `system_info`"
    );
}

#[test]
fn keys_of_later_versions_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("result.json");
    let good = &results("alone")[0];
    let mut result = read_json(good);
    result["schema_version"] = json!(SCHEMA_VERSION);
    result["run_info"]["weather"] = json!("fine");
    result["generation_info"]["variants"]["base"]["noise"] = json!({ "db": 40 });
    fs::write(&path, result.to_string()).unwrap();
    let read = report::read(&path).unwrap();
    let expected = report::read(good).unwrap();
    assert_eq!(read.run_info, expected.run_info);
    assert_eq!(read.generation_info, expected.generation_info);
}
