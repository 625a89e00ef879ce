//! Merged checkpoints in the base's layout (`--format hf`).

use serde_json::Value;

use crate::common::trial::Trial;
use crate::common::{case, model, program, read_json, read_tensors, relative_difference, run};

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
