//! Tokenizer folders of every kind in `tests/fixtures/tokenizers`, compared with Transformers'
//! results.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::json;

use super::*;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers")
}

#[derive(Deserialize)]
struct Expected {
    text: String,
    ids: Vec<u32>,
    decoded: String,
}

/// A copy of the fixture `name` without `without`.
fn copy(name: &str, without: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixtures().join(name)).unwrap() {
        let entry = entry.unwrap();
        let file = entry.file_name();
        if !without.iter().any(|name| *name == file) {
            fs::copy(entry.path(), folder.path().join(file)).unwrap();
        }
    }
    folder
}

fn set(folder: &Path, values: Value) {
    fs::write(folder.join("tokenizer_config.json"), values.to_string()).unwrap();
}

fn refusal(folder: &Path) -> String {
    let error = TextTokenizer::open(folder).unwrap_err();
    let mut text = error.to_string();
    if let Some(cause) = std::error::Error::source(&error) {
        text = format!("{text}: {cause}");
    }
    text
}

#[test]
fn every_kind_of_folder_gives_the_ids_and_texts_that_transformers_gives() {
    let mut count = 0;
    for entry in fs::read_dir(fixtures()).unwrap() {
        let folder = entry.unwrap().path();
        let expected = fs::read(folder.join("expected.json")).unwrap();
        let expected: Vec<Expected> = serde_json::from_slice(&expected).unwrap();
        let tokenizer = TextTokenizer::open(&folder).unwrap();
        for Expected { text, ids, decoded } in expected {
            let name = folder.display();
            assert_eq!(tokenizer.encode(&text).unwrap(), ids, "{name}: {text:?}");
            assert_eq!(tokenizer.decode(&ids).unwrap(), decoded, "{name}: {text:?}");
            count += 1;
        }
    }
    assert!(count > 100, "{count} texts");
}

#[test]
fn a_folder_without_a_vocabulary_names_the_files_and_the_command_that_makes_one() {
    let folder = copy("merges-gpt2", &["merges.txt"]);
    let text = refusal(folder.path());
    assert!(
        text.contains("`tokenizer.model`") && text.contains("save_pretrained"),
        "{text}"
    );
}

#[test]
fn another_programs_vocabulary_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tekken.json"), "{}").unwrap();
    let text = refusal(folder.path());
    assert!(
        text.contains("tekken.json") && text.contains("AutoTokenizer"),
        "{text}"
    );
}

#[test]
fn an_unsupported_class_is_refused_by_name() {
    let folder = copy("llama", &[]);
    set(
        folder.path(),
        json!({ "tokenizer_class": "T5TokenizerFast" }),
    );
    let text = refusal(folder.path());
    assert!(
        text.contains("`T5TokenizerFast`") && text.contains("PreTrainedTokenizerFast"),
        "{text}"
    );
    // A class name that Transformers doesn't know means that the file is used unchanged.
    set(
        folder.path(),
        json!({ "tokenizer_class": "MyOwnTokenizer" }),
    );
    TextTokenizer::open(folder.path()).unwrap();
}

#[test]
fn a_vocabulary_of_the_wrong_kind_for_its_class_is_refused() {
    let folder = copy("merges-gpt2", &["config.json"]);
    let text = refusal(folder.path());
    assert!(
        text.contains("its class doesn't use `vocab.json`"),
        "{text}"
    );
    let folder = copy("pieces-llama", &[]);
    set(folder.path(), json!({ "tokenizer_class": "GPT2Tokenizer" }));
    let text = refusal(folder.path());
    assert!(text.contains("`vocab.json` and `merges.txt`"), "{text}");
}

#[test]
fn malformed_files_and_keys_are_named() {
    let folder = copy("pieces-llama", &[]);
    fs::write(folder.path().join("tokenizer.model"), "not protobuf").unwrap();
    let text = refusal(folder.path());
    assert!(text.contains("no SentencePiece model"), "{text}");

    let folder = copy("merges-gpt2", &[]);
    fs::write(
        folder.path().join("merges.txt"),
        "#version: 0.2\na b\na b c\n",
    )
    .unwrap();
    let text = refusal(folder.path());
    assert!(
        text.contains("merges.txt") && text.contains("`line 3` is 3 tokens"),
        "{text}"
    );

    let folder = copy("llama", &[]);
    set(folder.path(), json!({ "bos_token": 3 }));
    let text = refusal(folder.path());
    assert!(
        text.contains("key `bos_token` is a number, expected a token"),
        "{text}"
    );
    set(
        folder.path(),
        json!({ "added_tokens_decoder": { "x": {} } }),
    );
    let text = refusal(folder.path());
    assert!(text.contains("`added_tokens_decoder.x`"), "{text}");
    fs::write(folder.path().join("tokenizer_config.json"), "{").unwrap();
    assert!(refusal(folder.path()).contains("cannot parse"));
}

#[test]
fn tokenizers_are_alike_if_they_encode_and_decode_alike() {
    let folder = copy("llama", &[]);
    let open = || TextTokenizer::open(folder.path()).unwrap();
    let as_it_was = open();
    set(
        folder.path(),
        json!({ "tokenizer_class": "LlamaTokenizerFast", "legacy": false, "pad_token": "</s>", "padding_side": "left" }),
    );
    assert!(open().is_like(&as_it_was));
    set(
        folder.path(),
        json!({ "tokenizer_class": "LlamaTokenizer", "pad_token": "<new>" }),
    );
    assert!(!open().is_like(&as_it_was));
}
