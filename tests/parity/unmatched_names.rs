//! A trained adapter whose configuration names modules or layers that this base lacks: PEFT ignores
//! them silently, here there's a note. Also the dtypes that tensors may have.

use safetensors::{Dtype as Stored, tensor::TensorView};
use serde_json::{Value, json};

use crate::common::reference::{Case, check_variant};
use crate::common::trial::{PROMPT, Trial};
use crate::common::{Outcome, assert_refused, case, model, read_json, read_tensors};

/// Checks both variants of `trial` against the case that it's a copy of.
fn check(trial: &Trial, model_name: &str, case_name: &str) {
    let folder = case(model_name, case_name);
    let case = Case::read(&folder);
    for variant in ["unmerged", "merged"] {
        let exported = trial.root.path().join("exported");
        let mut command = case.generate(&trial.experiment, variant, &exported);
        command.arg("--model").arg(model(model_name));
        check_variant(&case, &folder, variant, &mut command).unwrap();
    }
}

#[track_caller]
fn assert_noted(outcome: &Outcome, words: &[&str]) {
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let mut notes = outcome.stderr.lines();
    let found = notes
        .any(|line| line.starts_with("note: ") && words.iter().all(|word| line.contains(word)));
    assert!(found, "{words:?} in {outcome:?}");
}

#[test]
fn names_that_a_base_lacks_are_noted_for_a_trained_adapter() {
    for (model_name, key, more) in [
        ("gpt2", "target_modules", "q_attn"),
        ("phi3-plain", "target_modules", "q_proj"),
        ("llama-gqa", "modules_to_save", "score"),
    ] {
        let trial = Trial::new(model_name, "lora");
        let before = read_json(&trial.experiment.join("adapter_config.json"))[key].clone();
        let mut names: Vec<Value> = before.as_array().cloned().unwrap_or_default();
        names.push(json!(more));
        trial.set(key, json!(&names));
        check(&trial, model_name, "lora");
        // Also if everything is already prepared.
        for command in ["generate", "verify", "prepare"] {
            let prompt = if command == "generate" {
                &PROMPT[..]
            } else {
                &[]
            };
            let said = trial.run(command, prompt);
            assert_noted(&said, &[&format!("`{key}`"), &format!("`{more}`")]);
        }
        let checkpoint = trial.run("prepare", &["--format", "hf"]);
        assert_noted(&checkpoint, &[&format!("`{more}`")]);
        let fresh = Trial::fresh(model_name, "lora");
        fresh.set(key, json!(names));
        fresh.refused(
            &[],
            &[
                &format!("`{key}`"),
                &format!("`{more}`"),
                "matches no module",
            ],
        );
    }
}

#[test]
fn layers_that_a_base_lacks_are_noted_for_a_trained_adapter() {
    let trial = Trial::new("llama-gqa", "lora");
    trial.set("layers_to_transform", json!([0, 1, 2, 31]));
    check(&trial, "llama-gqa", "lora");
    let said = trial.run("generate", &PROMPT);
    assert_noted(&said, &["`layers_to_transform`", "[2, 31]", "0 to 1"]);
}

#[test]
fn a_module_without_tensors_in_the_file_is_refused() {
    let trial = Trial::new("llama-gqa", "lora");
    let names = json!(["q_proj", "v_proj", "down_proj"]);
    trial.set("target_modules", names);
    trial.refused(&[], &["down_proj.lora_A.weight", "missing"]);
}

#[test]
fn float64_tensors_are_rounded() {
    for (model_name, case_name) in [("llama-gqa", "lora"), ("llama-gqa", "trainable-tokens")] {
        let trial = Trial::new(model_name, case_name);
        let tensors = read_tensors(&trial.weights());
        let wide: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
            .into_iter()
            .map(|(name, tensor)| {
                let bytes = tensor.values.iter();
                let bytes = bytes.flat_map(|value| f64::from(*value).to_le_bytes());
                (name, tensor.shape, bytes.collect())
            })
            .collect();
        let views = wide.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(Stored::F64, shape.clone(), bytes).unwrap();
            (name, view)
        });
        safetensors::serialize_to_file(views, None, &trial.weights()).unwrap();
        check(&trial, model_name, case_name);
    }
}

#[test]
fn a_fresh_prefix_has_the_size_of_grouped_keys_whatever_its_configuration_says() {
    for case_name in ["prefix-tuning", "cartridge"] {
        let trial = Trial::fresh("llama-gqa", case_name);
        trial.set("inference_mode", json!(false));
        let as_saved = trial.logits(&PROMPT);
        // The hidden size and the number of query heads.
        trial.set("token_dim", json!(64));
        trial.set("num_attention_heads", json!(4));
        assert_eq!(trial.logits(&PROMPT), as_saved);
        let other = Trial::fresh("opt-pre", "prefix-tuning");
        other
            .set("inference_mode", json!(false))
            .set("token_dim", json!(7));
        let outcome = other.run("generate", &PROMPT);
        assert_refused(&outcome, &["`token_dim`"]);
    }
}
