//! Notes about the prompts' tokens and the tokenizer.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::common::*;
use crate::workplace::Workplace;

#[test]
fn the_table_has_the_number_of_tokens_of_each_category() {
    let place = Workplace::new(1);
    let outcome = place.measure(&case("llama-gqa", "lora"), &[]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let mut lines = outcome.stdout.lines();
    let line = lines.find(|line| line.starts_with("tokens of the prompts: "));
    let counts: Vec<usize> = line
        .unwrap()
        .split([' ', ','])
        .filter_map(|word| word.parse().ok())
        .collect();
    assert_eq!(counts.len(), 3, "{line:?}");
    assert!(counts.is_sorted_by(|less, more| less < more), "{line:?}");
    assert!(!outcome.stderr.contains("warning"), "{}", outcome.stderr);
    let result = place.result("lora--lora");
    assert_eq!(result["run_info"]["tokenizer"]["of"], "base");
}

#[test]
fn prompts_that_do_not_grow_or_are_given_twice_are_doubted() {
    let place = Workplace::new(1);
    let prompts = json!({ "short": ["a b c d"], "medium": ["a b"], "long": ["a b"] });
    fs::write(place.path("prompts.json"), prompts.to_string()).unwrap();
    let outcome = place.measure(&case("llama-gqa", "lora"), &[]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    for said in [
        "the prompts of `medium`",
        "no more than those of `short`",
        "medium 1 = long 1",
    ] {
        assert!(outcome.stderr.contains(said), "{}", outcome.stderr);
    }
}

/// A copy of the case `name` with its own tokenizer, in which the token `b` has another id.
fn with_tokenizer(place: &Workplace, name: &str) -> std::path::PathBuf {
    let folder = copy_folder(
        &case("llama-gqa", name),
        &place.path(&format!("own-{name}")),
    );
    let mut tokenizer = read_json(&model("llama-gqa").join("tokenizer.json"));
    tokenizer["added_tokens"]
        .as_array_mut()
        .unwrap()
        .push(json!({
            "id": 136, "content": " b", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": false,
        }));
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    folder
}

#[test]
fn experiments_are_measured_together_if_their_texts_go_through_the_same_tokenizer() {
    let place = Workplace::new(1);
    let own = ["lora", "dora"].map(|name| with_tokenizer(&place, name));
    let targets = [own[0].as_path(), own[1].as_path()];
    let outcome = place.measure_all(&targets, &[]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(
        outcome.stdout.contains("2 experiments"),
        "{}",
        outcome.stdout
    );
    assert!(
        outcome.stderr.contains("the adapter's tokenizer"),
        "{}",
        outcome.stderr
    );

    let other: &Path = &case("llama-gqa", "vera");
    let outcome = place.measure_all(&[own[0].as_path(), other], &[]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(
        !outcome.stdout.contains("2 experiments"),
        "{}",
        outcome.stdout
    );

    // With `--tokenizer base`, the tokens are the base's again.
    let outcome = place.measure_all(&[own[0].as_path(), other], &["--tokenizer", "base"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(
        outcome.stdout.contains("2 experiments"),
        "{}",
        outcome.stdout
    );
}
