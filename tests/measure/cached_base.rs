//! `--cached-base`: measuring against a base measurement from an earlier run.

use std::fs;

use crate::common::*;
use crate::workplace::Workplace;

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
    let result = place.result("lora--lora");
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
