//! Adapters whose tensors have other names than PEFT gives them for this model.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use crate::common::reference::{Case, check_variant, peft_type};
use crate::common::{assert_refused, case, copy_folder, edit_tensors, model, names, run};

const FILE: &str = "adapter_model.safetensors";
const PLAIN: &str = "base_model.model.model.";

/// Changes a tensor's name.
type Rename = fn(&str) -> String;

/// Ways in which the tensors of a Llama may be named.
const RENAMES: [(&str, Rename); 8] = [
    ("headless", |key| {
        key.replacen(PLAIN, "base_model.model.", 1)
    }),
    ("wrapper", |key| {
        key.replacen(PLAIN, "base_model.model.model.language_model.", 1)
    }),
    ("old wrapper", |key| {
        let head = "base_model.model.lm_head";
        key.replacen(PLAIN, "base_model.model.language_model.model.", 1)
            .replacen(head, "base_model.model.language_model.lm_head", 1)
    }),
    ("twice", |key| {
        key.replacen(PLAIN, "base_model.model.model.model.", 1)
    }),
    ("compiled", |key| {
        key.replacen(PLAIN, "base_model.model._orig_mod.model.", 1)
    }),
    ("several devices", |key| format!("module.{key}")),
    ("name of the adapter", |key| {
        match key.strip_suffix(".weight") {
            Some(stem) => format!("{stem}.default.weight"),
            None => format!("{key}.default"),
        }
    }),
    ("compiled around", |key| format!("_orig_mod.{key}")),
];

/// Renames tensors in the file's header, since some have dtypes that aren't floats.
fn rename(folder: &Path, rename: impl Fn(&str) -> String) {
    let path = folder.join(FILE);
    let bytes = fs::read(&path).unwrap();
    let (length, rest) = bytes.split_at(8);
    let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
    let header: Map<String, Value> = serde_json::from_slice(&rest[..length]).unwrap();
    let renamed: Map<String, Value> = header
        .into_iter()
        .map(|(key, value)| match key.as_str() {
            "__metadata__" => (key, value),
            _ => (rename(&key), value),
        })
        .collect();
    let header = Value::Object(renamed).to_string();
    let mut written = (header.len() as u64).to_le_bytes().to_vec();
    written.extend(header.as_bytes());
    written.extend(&rest[length..]);
    fs::write(&path, written).unwrap();
}

#[test]
fn every_method_finds_its_tensors_under_their_other_names() {
    let (mut failures, mut seen) = (Vec::new(), BTreeSet::new());
    for case_name in names(&case("llama-gqa", "")) {
        let folder = case("llama-gqa", &case_name);
        let whole = folder.join(FILE).exists() && names(&folder).len() == 4;
        if !whole || case_name == "base" || case_name.starts_with("psoft") {
            continue;
        }
        if !seen.insert(peft_type(&folder)) && !case_name.contains("save") {
            continue;
        }
        let reference = Case::read(&folder);
        for number in [seen.len(), seen.len() + 3] {
            let (label, change) = RENAMES[number % RENAMES.len()];
            let target = tempfile::tempdir().unwrap();
            let copy = copy_folder(&folder, &target.path().join("adapter"));
            rename(&copy, change);
            let exported = tempfile::tempdir().unwrap();
            let mut command = reference.generate(&copy, "unmerged", exported.path());
            command.arg("--model").arg(model("llama-gqa"));
            if let Err(message) = check_variant(&reference, &folder, "unmerged", &mut command) {
                failures.push(format!("{case_name}, {label}: {message}"));
            }
        }
    }
    assert!(seen.len() > 20, "{seen:?}");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// `generate` of a copy of LoRA for a Llama, with its tensors renamed by `change`.
fn renamed_lora(change: impl Fn(&str) -> String) -> crate::common::Outcome {
    let folder = case("llama-gqa", "lora");
    let target = tempfile::tempdir().unwrap();
    let copy = copy_folder(&folder, &target.path().join("adapter"));
    rename(&copy, change);
    let exported = target.path().join("exported");
    let mut command = Case::read(&folder).generate(&copy, "unmerged", &exported);
    run(command.arg("--model").arg(model("llama-gqa")))
}

#[test]
fn renamed_tensors_are_noted_once() {
    let outcome = renamed_lora(|key| key.replacen(PLAIN, "base_model.model.", 1));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(
        outcome.stderr.matches("other names").count(),
        1,
        "{outcome:?}"
    );
}

#[test]
fn two_tensors_for_one_name_are_refused() {
    let folder = case("llama-gqa", "lora");
    let target = tempfile::tempdir().unwrap();
    let copy = copy_folder(&folder, &target.path().join("adapter"));
    edit_tensors(&copy.join(FILE), |tensors| {
        let all = std::mem::take(tensors);
        for (key, tensor) in all {
            tensors.insert(key.replacen(PLAIN, "base_model.model.", 1), tensor.clone());
            tensors.insert(
                key.replacen(PLAIN, "base_model.model.language_model.", 1),
                tensor,
            );
        }
    });
    let exported = target.path().join("exported");
    let mut command = Case::read(&folder).generate(&copy, "unmerged", &exported);
    let outcome = run(command.arg("--model").arg(model("llama-gqa")));
    assert_refused(&outcome, &["could both be it", "language_model"]);
}

#[test]
fn the_most_similar_name_to_a_missing_tensor_is_named() {
    let outcome = renamed_lora(|key| format!("{key}s"));
    assert_refused(
        &outcome,
        &[
            "is missing",
            "lora_A",
            "the most similar name",
            "lora_A.weights`",
        ],
    );
}

#[test]
fn tensors_of_another_tower_are_passed_over_and_counted() {
    let folder = case("wrapper-llava", "attn");
    let exported = tempfile::tempdir().unwrap();
    let mut command = Case::read(&folder).generate(&folder, "merged", exported.path());
    let outcome = run(command.arg("--model").arg(model("wrapper-llava")));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(
        outcome.stderr.contains("6 of the adapter's tensors"),
        "{outcome:?}"
    );
}
