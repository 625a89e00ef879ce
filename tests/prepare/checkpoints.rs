//! Merged checkpoints in the base's layout (`--format hf`).

use std::fs;

use serde_json::Value;

use crate::common::trial::Trial;
use crate::common::{
    assert_refused, case, model, program, read_json, read_tensors, relative_difference, run,
};

#[test]
fn checkpoints_with_merged_experts_are_those_of_the_base_s_layout() {
    for (model_name, case_name) in [
        ("mixtral", "lora-experts"),
        ("olmoe", "lora-all-linear"),
        ("gpt2", "lora-parameters"),
    ] {
        let trial = Trial::new(model_name, case_name);
        let outcome = trial.run("prepare", &["--format", "hf", "--dtype", "float32"]);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let checkpoint = trial.prepared("checkpoint-float32");
        let written = read_tensors(&checkpoint.join("model.safetensors"));
        let base = read_tensors(&model(model_name).join("model.safetensors"));
        assert_eq!(written.len(), base.len(), "{model_name}");
        for (name, tensor) in &base {
            assert_eq!(written[name].shape, tensor.shape, "{model_name}: {name}");
        }

        let folder = case(model_name, case_name);
        let reference = read_json(&folder.join("case.json"));
        let ids: Vec<String> = reference["prompt_ids"]
            .as_array()
            .unwrap()
            .iter()
            .map(Value::to_string)
            .collect();
        let file = trial.root.path().join("merged.safetensors");
        let mut command = program(["generate", "--ep", "cpu", "--threads", "1"]);
        command
            .arg(&checkpoint)
            .args(["--prompt-ids", &ids.join(",")]);
        command
            .args(["--max-new-tokens", "8", "--variant", "base", "--logits"])
            .arg(&file);
        let outcome = run(command
            .arg("--export-dir")
            .arg(trial.root.path().join("again")));
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let expected = read_tensors(&folder.join("expected.safetensors"))
            .remove("merged")
            .unwrap();
        let found = read_tensors(&file).remove("logits").unwrap();
        let difference = relative_difference(&found.values, &expected.values);
        assert!(difference < 1e-4, "{model_name}/{case_name}: {difference}");
    }
}

#[test]
fn a_merged_checkpoint_gets_the_adapters_tokenizer_whole_or_the_one_that_is_asked_for() {
    let trial = Trial::with_own_model("llama-gqa", "lora");
    fs::write(trial.model.join("chat_template.jinja"), "base").unwrap();
    let from_base = |name: &str| fs::read(trial.model.join(name)).unwrap();
    let outcome = trial.run("prepare", &["--format", "hf"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let written = |name: &str| fs::read(trial.prepared("checkpoint").join(name)).ok();
    for name in ["tokenizer.json", "chat_template.jinja"] {
        assert_eq!(written(name), Some(from_base(name)), "{name}");
    }

    let templates = trial.experiment.join("additional_chat_templates");
    fs::create_dir(&templates).unwrap();
    fs::write(templates.join("tool_use.jinja"), "tools").unwrap();
    let own = String::from_utf8(from_base("tokenizer.json")).unwrap();
    let own = format!("{own}\n");
    fs::write(trial.experiment.join("tokenizer.json"), &own).unwrap();
    fs::write(trial.experiment.join("special_tokens_map.json"), "{}").unwrap();
    let outcome = trial.run("prepare", &["--format", "hf"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(
        outcome
            .stderr
            .contains("the checkpoint gets the adapter's tokenizer"),
        "{outcome:?}"
    );
    assert_eq!(written("tokenizer.json"), Some(own.into_bytes()));
    assert_eq!(written("special_tokens_map.json"), Some(b"{}".to_vec()));
    let tool_use = "additional_chat_templates/tool_use.jinja";
    assert_eq!(written(tool_use), Some(b"tools".to_vec()));
    // No file of the base's tokenizer is mixed in.
    assert_eq!(written("chat_template.jinja"), None);
    assert_eq!(written("tokenizer_config.json"), None);

    let outcome = trial.run("prepare", &["--format", "hf", "--tokenizer", "base"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(written("tokenizer.json"), Some(from_base("tokenizer.json")));
    let outcome = trial.run("prepare", &["--tokenizer", "base"]);
    assert_refused(&outcome, &["`--tokenizer` goes with `--format hf`"]);
}
