//! Invalid weight files of base models.

use std::fs;

use serde_json::{Value, json};

use crate::common::*;
use crate::safetensors_bytes::{header_of, spoilt_files, with_header};
use crate::spoilt::Spoilt;

#[test]
fn a_malformed_base_file_is_refused() {
    let trial = Spoilt::new("llama-gqa", "lora");
    for (label, words, bytes) in spoilt_files(&fs::read(trial.base_weights()).unwrap()) {
        fs::write(trial.base_weights(), bytes).unwrap();
        let outcome = trial.generate_base();
        assert_eq!(outcome.code, Some(1), "{label}: {outcome:?}");
        trial.base_refused(&["base-model", "model.safetensors", &words]);
    }
    fs::remove_file(trial.base_weights()).unwrap();
    trial.base_refused(&[
        "base-model",
        "no weights found",
        "`model.safetensors.index.json`",
    ]);
}

#[test]
fn a_base_without_one_of_its_tensors_is_refused() {
    const NAME: &str = "model.layers.1.mlp.up_proj.weight";
    let trial = Spoilt::new("llama-gqa", "lora");
    edit_tensors(&trial.base_weights(), |tensors| {
        tensors.remove(NAME).unwrap();
    });
    trial.base_refused(&["model.safetensors", NAME, "missing"]);
}

#[test]
fn a_base_that_zero_3_left_empty_is_recognized() {
    const NAME: &str = "model.layers.1.mlp.up_proj.weight";
    let trial = Spoilt::new("llama-gqa", "lora");
    edit_tensors(&trial.base_weights(), |tensors| {
        let tensor = tensors.get_mut(NAME).unwrap();
        (tensor.shape, tensor.values) = (vec![0], Vec::new());
    });
    trial.base_refused(&[
        "model.safetensors",
        NAME,
        "ZeRO-3",
        "save the model again",
        "zero_to_fp32.py",
    ]);
}

#[test]
fn a_base_in_float64_is_refused_with_the_command_that_rounds_it() {
    const NAME: &str = "model.norm.weight";
    let trial = Spoilt::new("llama-gqa", "lora");
    let bytes = fs::read(trial.base_weights()).unwrap();
    let mut header: Value = serde_json::from_str(&header_of(&bytes)).unwrap();
    let size = header[NAME]["shape"][0].as_u64().unwrap();
    // The byte count stays the same.
    header[NAME]["dtype"] = json!("F64");
    header[NAME]["shape"] = json!([size / 2]);
    fs::write(
        trial.base_weights(),
        with_header(&header.to_string(), &bytes),
    )
    .unwrap();
    trial.base_refused(&["model.safetensors", NAME, "float64", "python3 -c"]);
}

#[test]
fn experts_stored_inputs_first_are_refused_with_the_command_that_transposes_them() {
    let trial = Spoilt::new("wrapper-qwen3-vl-moe", "attn");
    edit_tensors(&trial.base_weights(), |tensors| {
        let is_stack = |name: &str| name.ends_with("experts.gate_up_proj");
        let mut transposed = 0;
        for (_, tensor) in tensors.iter_mut().filter(|(name, _)| is_stack(name)) {
            tensor.shape.swap(1, 2);
            transposed += 1;
        }
        assert!(transposed > 0);
    });
    trial.base_refused(&[
        "model.safetensors",
        "experts.gate_up_proj",
        "inputs before outputs",
        "AutoModelForImageTextToText",
    ]);
}

#[test]
fn a_base_that_was_truncated_after_preparing_is_refused() {
    let trial = Spoilt::new("llama-gqa", "lora");
    let bytes = fs::read(trial.base_weights()).unwrap();
    fs::write(trial.base_weights(), &bytes[..bytes.len() / 2]).unwrap();
    let models = names(&trial.exported);
    for variant in ["base", "unmerged", "merged"] {
        let prepared = trial.exported.join(&models[0]);
        let below = match variant {
            "base" => prepared.join("base"),
            _ => only(&prepared.join("lora--trial")),
        };
        let mut command = trial.command(&["generate", "--prompt-ids", "1", "--variant", variant]);
        let outcome = run(command.arg(below));
        trial.refused(&outcome, &["model.safetensors", "shorter", "prepare"]);
    }
}

#[test]
fn broken_shards_are_refused() {
    let index = |trial: &Spoilt| trial.base.join("model.safetensors.index.json");
    let first = |trial: &Spoilt| {
        let json = read_json(&index(trial));
        let (name, shard) = json["weight_map"]
            .as_object()
            .unwrap()
            .iter()
            .next()
            .unwrap();
        (name.clone(), shard.as_str().unwrap().to_owned())
    };
    let point_to = |trial: &Spoilt, shard: &str| {
        let mut json = read_json(&index(trial));
        json["weight_map"][first(trial).0] = json!(shard);
        fs::write(index(trial), json.to_string()).unwrap();
    };

    let trial = Spoilt::new("llama-linear", "lora");
    let (_, shard) = first(&trial);
    fs::remove_file(trial.base.join(&shard)).unwrap();
    trial.base_refused(&[&shard, "cannot read"]);

    let outside = [
        "../base-model/model-00001-of-00004.safetensors",
        "/etc/hostname",
        "..",
        "",
    ];
    for shard in outside {
        let trial = Spoilt::new("llama-linear", "lora");
        point_to(&trial, shard);
        trial.base_refused(&["index.json", &format!("`{shard}`"), "inside"]);
    }

    let trial = Spoilt::new("llama-linear", "lora");
    let (name, shard) = first(&trial);
    let is_other = |name: &String| name.ends_with(".safetensors") && *name != shard;
    let other = names(&trial.base).into_iter().rfind(is_other).unwrap();
    point_to(&trial, &other);
    trial.base_refused(&[&name, &other, "missing"]);

    let trial = Spoilt::new("llama-linear", "lora");
    fs::write(index(&trial), "").unwrap();
    trial.base_refused(&["index.json", "empty"]);
    for broken in ["{}", r#"{"weight_map": []}"#, r#"{"weight_map": {"a": 1}}"#] {
        let trial = Spoilt::new("llama-linear", "lora");
        fs::write(index(&trial), broken).unwrap();
        trial.base_refused(&["index.json", "cannot parse"]);
    }
    let trial = Spoilt::new("llama-linear", "lora");
    fs::write(index(&trial), r#"{"weight_map": {}}"#).unwrap();
    trial.base_refused(&["index.json", "missing"]);
}
