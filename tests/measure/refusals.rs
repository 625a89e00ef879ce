//! Requests that are refused before anything is measured.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::common::*;
use crate::workplace::Workplace;

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
fn a_synthetic_model_is_a_target_and_is_not_looked_up_elsewhere() {
    let place = Workplace::new(1);
    let outcome = place.measure(Path::new("synthetic/none"), &[]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let message = &outcome.stderr;
    assert!(message.contains("unknown synthetic shape"), "{message}");
    assert!(!message.contains("looked for on the hub"), "{message}");
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
    let result = place.result("failed/lora--lora");
    assert_eq!(result["run_info"]["status"], "failed");
}
