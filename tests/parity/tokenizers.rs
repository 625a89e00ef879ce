//! Tokenizers in the formats of real checkpoints and adapters.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::common::trial::Trial;
use crate::common::{Outcome, assert_refused, copy_folder, program, read_json, run};

const TEXT: &str = "The quick brown fox";

fn tokenizer_fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/tokenizers")
        .join(name)
}

/// A trial with its own base, whose tokenizer may be changed.
fn trial() -> Trial {
    Trial::with_own_model("llama-gqa", "lora")
}

#[track_caller]
fn generated(trial: &Trial, options: &[&str]) -> (Value, Outcome) {
    let mut all = vec!["--json", "--max-new-tokens", "3"];
    all.extend(options);
    let outcome = trial.run("generate", &all);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    (serde_json::from_str(&outcome.stdout).unwrap(), outcome)
}

#[track_caller]
fn ids(trial: &Trial, options: &[&str]) -> Vec<u32> {
    let (found, _) = generated(trial, options);
    serde_json::from_value(found["prompt_ids"].clone()).unwrap()
}

fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut json = read_json(path);
    change(&mut json);
    fs::write(path, json.to_string()).unwrap();
}

/// Gives the adapter its own tokenizer: the base's, with the token `<chat>` at `id`.
fn give_adapter_a_tokenizer(trial: &Trial, id: u32) {
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(trial.model.join(name), trial.experiment.join(name)).unwrap();
    }
    edit(&trial.experiment.join("tokenizer.json"), |json| {
        json["added_tokens"].as_array_mut().unwrap().push(json!({
            "id": id, "content": "<chat>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        }));
        let pieces = json["model"]["vocab"].as_object_mut().unwrap();
        pieces.insert("<chat>".to_owned(), json!(id));
    });
}

#[test]
fn padding_and_truncation_that_a_tokenizer_file_holds_are_not_applied_to_prompts() {
    let trial = trial();
    let texts = ["a", TEXT];
    let before = texts.map(|text| ids(&trial, &["--variant", "base", "--prompt", text]));
    assert_ne!(before[0].len(), before[1].len());
    edit(&trial.model.join("tokenizer.json"), |json| {
        json["padding"] = json!({
            "strategy": { "Fixed": 48 }, "direction": "Left", "pad_to_multiple_of": null, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "<unk>",
        });
        json["truncation"] = json!({
            "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0,
        });
    });
    let after = texts.map(|text| ids(&trial, &["--variant", "base", "--prompt", text]));
    assert_eq!(before, after);
}

#[test]
fn texts_of_all_variants_go_through_the_adapters_tokenizer_and_a_note_says_so() {
    let trial = trial();
    let plain = ids(&trial, &["--prompt", "<chat> hi"]);
    give_adapter_a_tokenizer(&trial, 137);
    for variant in ["base", "merged", "unmerged"] {
        let (found, outcome) = generated(&trial, &["--variant", variant, "--prompt", "<chat> hi"]);
        let own: Vec<u32> = serde_json::from_value(found["prompt_ids"].clone()).unwrap();
        assert!(own.contains(&137) && own != plain, "{variant}: {own:?}");
        assert_eq!(found["tokenizer"]["of"], "adapter", "{variant}");
        let folder = trial.experiment.to_str().unwrap();
        assert_eq!(found["tokenizer"]["path"], folder, "{variant}");
        assert!(
            outcome.stderr.contains("the adapter's tokenizer") && outcome.stderr.contains(folder),
            "{outcome:?}"
        );
    }
    let (found, outcome) = generated(&trial, &["--prompt", "<chat> hi", "--tokenizer", "base"]);
    assert_eq!(found["prompt_ids"], json!(plain));
    assert_eq!(found["tokenizer"]["of"], "base");
    assert!(!outcome.stderr.contains("texts go through"), "{outcome:?}");

    let other = tokenizer_fixture("pieces-small");
    let other = other.to_str().unwrap();
    let (found, _) = generated(&trial, &["--prompt", TEXT, "--tokenizer", other]);
    assert_eq!(found["tokenizer"]["path"], other);

    // A prepared folder knows its adapter, also for its base.
    let outcome = trial.run("prepare", &[]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let mut command = program(["generate", "--ep", "cpu", "--json", "--variant", "base"]);
    command
        .arg(trial.prepared(""))
        .args(["--prompt", "<chat> hi"]);
    let outcome = run(&mut command);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let found: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(found["tokenizer"]["of"], "adapter");
}

#[test]
fn an_adapters_tokenizer_that_is_the_bases_gets_no_note() {
    let trial = trial();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(trial.model.join(name), trial.experiment.join(name)).unwrap();
    }
    let (_, outcome) = generated(&trial, &["--prompt", TEXT]);
    assert!(!outcome.stderr.contains("tokenizer"), "{outcome:?}");
}

#[test]
fn a_token_beyond_the_vocabulary_is_refused_with_the_tokenizer_that_gave_it() {
    let trial = trial();
    give_adapter_a_tokenizer(&trial, 200);
    for variant in ["base", "unmerged"] {
        let outcome = trial.run("generate", &["--variant", variant, "--prompt", "<chat> hi"]);
        assert_refused(
            &outcome,
            &[
                "token id 200",
                "the adapter's tokenizer",
                "`--tokenizer base`",
            ],
        );
    }
}

#[test]
fn a_tokenizer_that_is_not_there_is_refused_by_name() {
    let trial = trial();
    let asked = |choice| trial.run("generate", &["--prompt", TEXT, "--tokenizer", choice]);
    assert_refused(
        &asked("adapter"),
        &["`--tokenizer adapter`", "has no tokenizer"],
    );
    assert_refused(
        &asked("/no/such/folder"),
        &["there is no folder `/no/such/folder`"],
    );
}

#[test]
fn a_base_with_older_tokenizer_files_takes_texts() {
    for name in ["merges-small", "pieces-small"] {
        let trial = trial();
        fs::remove_file(trial.model.join("tokenizer.json")).unwrap();
        copy_folder(&tokenizer_fixture(name), &trial.root.path().join("files"));
        for entry in fs::read_dir(trial.root.path().join("files")).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, trial.model.join(path.file_name().unwrap())).unwrap();
        }
        let expected = read_json(&tokenizer_fixture(name).join("expected.json"));
        let text = expected[0]["text"].as_str().unwrap();
        let (found, _) = generated(&trial, &["--prompt", text]);
        assert_eq!(found["prompt_ids"], expected[0]["ids"], "{name}");
    }
}

#[test]
fn token_ids_need_no_tokenizer_even_if_its_file_is_broken() {
    let trial = trial();
    let prompt = ["--prompt-ids", "3,1,4"];
    let (with, _) = generated(&trial, &prompt);
    for content in ["{", r#"{"tokenizer_class": "T5Tokenizer"}"#] {
        fs::write(trial.model.join("tokenizer_config.json"), content).unwrap();
        let (without, _) = generated(&trial, &prompt);
        assert_eq!(without["token_ids"], with["token_ids"]);
        assert_eq!(without["text"], Value::Null);
        let outcome = trial.run("generate", &["--prompt", TEXT]);
        assert_refused(&outcome, &["tokenizer_config.json", "--prompt-ids"]);
    }
}
