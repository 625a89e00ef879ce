//! Prompt learning, adaption prompts and tasks: fresh adapters, and what is refused.

mod common;

use std::fs;
use std::path::PathBuf;

use common::*;
use serde_json::{Value, json};
use tempfile::TempDir;

/// An experiment that a test may change, and a folder for what's prepared.
struct Trial {
    root: TempDir,
    model: PathBuf,
    experiment: PathBuf,
}

impl Trial {
    fn new(model_name: &str, case_name: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        Self {
            model: model(model_name),
            experiment: copy_folder(&case(model_name, case_name), &root.path().join("trial")),
            root,
        }
    }

    /// The same with the configuration alone.
    fn fresh(model_name: &str, case_name: &str) -> Self {
        let trial = Self::new(model_name, case_name);
        fs::remove_file(trial.weights()).unwrap();
        trial
    }

    fn weights(&self) -> PathBuf {
        self.experiment.join("adapter_model.safetensors")
    }

    fn set(&self, key: &str, value: Value) -> &Self {
        set_key(&self.experiment.join("adapter_config.json"), key, value);
        self
    }

    fn run(&self, command: &str, options: &[&str]) -> Outcome {
        let mut command = program([command, "--ep", "cpu", "--threads", "1"]);
        command.arg(&self.experiment).args(options);
        command.arg("--model").arg(&self.model);
        run(command
            .arg("--export-dir")
            .arg(self.root.path().join("exported")))
    }

    /// Logits of `generate`, after whatever it says.
    #[track_caller]
    fn logits(&self, options: &[&str]) -> Vec<f32> {
        let file = self.root.path().join("logits.safetensors");
        let path = file.to_str().unwrap();
        let mut all = vec!["--max-new-tokens", "4", "--logits", path];
        all.extend(options);
        let outcome = self.run("generate", &all);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        read_tensors(&file).remove("logits").unwrap().values
    }

    /// The manifest of a prepared variant.
    fn manifest(&self, variant: &str) -> Value {
        read_json(&self.prepared(variant).join("manifest.json"))
    }

    /// The folder of a prepared variant.
    fn prepared(&self, variant: &str) -> PathBuf {
        let model = &names(&self.root.path().join("exported"))[0];
        let model = self.root.path().join("exported").join(model);
        let mut experiments = names(&model);
        experiments.retain(|name| name != "base" && model.join(name).is_dir());
        model.join(&experiments[0]).join(variant)
    }

    #[track_caller]
    fn refused(&self, options: &[&str], words: &[&str]) {
        for variant in ["unmerged", "merged"] {
            let mut all = vec!["--variant", variant];
            all.extend(options);
            assert_refused(&self.run("prepare", &all), words);
        }
    }
}

#[track_caller]
fn assert_refused(outcome: &Outcome, words: &[&str]) {
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let error = outcome.error().unwrap_or_else(|| panic!("{outcome:?}"));
    for word in words {
        assert!(error.contains(word), "no `{word}` in `{error}`");
    }
}

const PROMPT: [&str; 2] = ["--prompt-ids", "3,1,4,1,5,9"];

#[test]
fn fresh_adapters_on_parameters_start_as_peft_s_do() {
    for (model_name, case_name, is_base) in [
        ("mixtral", "lora-experts", true),
        ("mixtral", "lora-single-experts", true),
        ("gpt2", "lora-parameters", true),
        // `init_lora_weights` is false.
        ("olmoe", "lora-experts", false),
    ] {
        let trial = Trial::fresh(model_name, case_name);
        let base = trial.logits(&[&PROMPT[..], &["--variant", "base"]].concat());
        let logits = ["unmerged", "merged"]
            .map(|variant| trial.logits(&[&PROMPT[..], &["--variant", variant]].concat()));
        for own in &logits {
            let difference = relative_difference(own, &base);
            assert_eq!(
                difference < 1e-6,
                is_base,
                "{model_name}/{case_name}: {difference}"
            );
        }
        let difference = relative_difference(&logits[0], &logits[1]);
        assert!(difference < 1e-4, "{model_name}/{case_name}: {difference}");
        let counted = read_json(&case(model_name, case_name).join("case.json"));
        let adapter = &trial.manifest("unmerged")["adapter"];
        for key in ["trainable_params", "total_params"] {
            assert_eq!(
                adapter[key], counted[key],
                "{model_name}/{case_name}: {key}"
            );
        }
        let tensors = read_tensors(&trial.prepared("unmerged").join("adapter.safetensors"));
        let largest = |name: &str| -> f32 {
            let own = tensors.iter().filter(|(key, _)| key.contains(name));
            own.flat_map(|(_, tensor)| &tensor.values)
                .fold(0.0, |most, value| value.abs().max(most))
        };
        // What `unmerged-empty` is made of.
        let neutral = adapter["neutral"].as_object().unwrap();
        assert_eq!(neutral.len(), tensors.len(), "{model_name}/{case_name}");
        assert!(neutral.values().all(|value| value == 0.0));
        if model_name == "olmoe" {
            // `1 / sqrt(fan_in)`: of `A` 16 at the least, of `B` 5 experts of rank 2, times the scaling of 2.5.
            let expected = [(".lora_A.", 0.25), (".lora_B.", 2.5 / f32::sqrt(10.0))];
            for (name, bound) in expected {
                let found = largest(name);
                assert!(found <= bound && found > 0.95 * bound, "{name}: {found}");
            }
        }
    }
}

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
fn a_fresh_context_aware_prompt_is_its_tokens() {
    for model_name in ["llama-gqa", "opt-pre"] {
        let trial = Trial::fresh(model_name, "cpt");
        let prompt = trial.logits(&PROMPT);
        let written = ["--variant", "base", "--prompt-ids", "9,4,71,33,3,1,4,1,5,9"];
        let difference = relative_difference(&prompt, &trial.logits(&written));
        assert!(difference < 1e-6, "{model_name}: {difference}");
    }
}

#[test]
fn a_fresh_adaption_prompt_is_the_base_and_its_gate_opens_it() {
    let trial = Trial::fresh("llama-gqa", "adaption-prompt");
    let (fresh, base) = (
        trial.logits(&PROMPT),
        trial.logits(&[&PROMPT[..], &["--variant", "base"]].concat()),
    );
    assert!(relative_difference(&fresh, &base) < 1e-6);
    let trained = Trial::new("llama-gqa", "adaption-prompt");
    assert!(relative_difference(&trained.logits(&PROMPT), &base) > 1e-2);
}

#[test]
fn fresh_prompts_depend_on_the_seed_and_count_as_trained_ones() {
    for name in [
        "cartridge",
        "multitask-prompt-tuning",
        "p-tuning-lstm",
        "p-tuning-mlp",
        "prefix-tuning-projection",
    ] {
        for model_name in ["llama-gqa", "opt-pre"] {
            let trial = Trial::fresh(model_name, name);
            let first = trial.logits(&PROMPT);
            assert!(first.iter().all(|logit| logit.is_finite()));
            let manifest = trial.manifest("unmerged");
            let expected = read_json(&case(model_name, name).join("case.json"));
            for key in ["trainable_params", "total_params"] {
                assert_eq!(
                    manifest["adapter"][key], expected[key],
                    "{model_name}/{name}"
                );
            }
            fs::write(
                trial.experiment.join("benchmark_params.json"),
                r#"{"seed": 7}"#,
            )
            .unwrap();
            let second = trial.logits(&PROMPT);
            assert!(
                relative_difference(&first, &second) > 1e-4,
                "{model_name}/{name}"
            );
        }
    }
}

#[test]
fn configurations_of_prompts_that_cannot_be_are_refused_by_the_key() {
    let (huge, beyond) = (json!(1_000_000_000), json!(u64::MAX));
    for (case_name, key, value) in [
        ("cartridge", "num_virtual_tokens", json!(129)),
        ("cartridge", "num_virtual_tokens", beyond.clone()),
        ("cartridge", "num_frozen_tokens", json!(6)),
        ("cartridge", "num_frozen_tokens", json!(-1)),
        ("cartridge", "num_layers", json!(3)),
        ("cartridge", "num_attention_heads", json!(4)),
        ("cpt", "cpt_token_ids", json!([])),
        ("cpt", "cpt_token_ids", json!([1, 2, 3, 140])),
        ("cpt", "cpt_token_ids", json!([1, 2, 3, -4])),
        ("cpt", "cpt_token_ids", json!("1,2,3,4")),
        ("cpt", "cpt_token_ids", json!(vec![1; 129])),
        ("cpt", "cpt_mask", json!([1, 1, 1])),
        ("cpt", "cpt_tokens_type_mask", json!(1)),
        ("cpt", "num_virtual_tokens", json!(5)),
        ("cpt", "token_dim", json!(32)),
        ("multitask-prompt-tuning", "num_tasks", json!(0)),
        ("multitask-prompt-tuning", "num_tasks", huge.clone()),
        ("multitask-prompt-tuning", "num_ranks", huge.clone()),
        (
            "multitask-prompt-tuning",
            "num_virtual_tokens",
            huge.clone(),
        ),
        ("multitask-prompt-tuning", "token_dim", json!(65)),
        (
            "multitask-prompt-tuning",
            "prompt_tuning_init",
            json!("EXACT_SOURCE_TASK"),
        ),
        (
            "multitask-prompt-tuning",
            "prompt_tuning_init",
            json!("LAZY"),
        ),
        (
            "p-tuning-mlp",
            "encoder_reparameterization_type",
            json!("GRU"),
        ),
        ("p-tuning-mlp", "encoder_hidden_size", huge.clone()),
        ("p-tuning-mlp", "num_virtual_tokens", json!(129)),
        ("p-tuning-lstm", "encoder_num_layers", json!(0)),
        ("p-tuning-lstm", "encoder_num_layers", huge.clone()),
        ("p-tuning-lstm", "num_transformer_submodules", json!(2)),
        ("adaption-prompt", "adapter_len", json!(0)),
        ("adaption-prompt", "adapter_len", json!(null)),
        ("adaption-prompt", "adapter_len", huge),
        ("adaption-prompt", "adapter_layers", json!(3)),
        ("adaption-prompt", "adapter_layers", json!(null)),
        ("adaption-prompt", "target_modules", json!("mlp")),
    ] {
        let trial = Trial::fresh("llama-gqa", case_name);
        trial.set(key, value);
        trial.refused(&[], &["adapter_config.json", &format!("`{key}`")]);
    }
}

#[test]
fn fresh_adapters_of_absurd_sizes_are_refused_without_drawing_them() {
    let trial = Trial::fresh("llama-gqa", "p-tuning-lstm");
    trial.set("encoder_hidden_size", json!(65_536));
    trial.refused(&[], &["adapter_config.json", "at most"]);
    let trial = Trial::fresh("llama-gqa", "multitask-prompt-tuning");
    trial
        .set("num_tasks", json!(65_536))
        .set("num_ranks", json!(65_536));
    trial.refused(&[], &["adapter_config.json", "at most"]);
    let trial = Trial::fresh("llama-gqa", "poly");
    trial.set("n_skills", json!(65_536)).set("r", json!(65_536));
    trial.refused(&[], &["adapter_config.json", "at most"]);
}

#[test]
fn an_adaption_prompt_is_for_the_architectures_that_peft_has_it_for() {
    let mut trial = Trial::fresh("llama-gqa", "adaption-prompt");
    trial.model = model("opt-pre");
    trial.refused(&[], &["adapter_config.json", "llama", "`opt`"]);
    let trial = Trial::new("llama-gqa", "adaption-prompt");
    let outcome = trial.run(
        "prepare",
        &["--variant", "unmerged", "--adapter-form", "native"],
    );
    assert_refused(&outcome, &["--adapter-form native", "ADAPTION_PROMPT"]);
}

#[test]
fn every_tensor_is_needed_with_its_shape() {
    for name in [
        "adaption-prompt",
        "cartridge",
        "cpt",
        "multitask-prompt-tuning",
        "p-tuning-mlp",
    ] {
        let weights = case("llama-gqa", name).join("adapter_model.safetensors");
        for (key, tensor) in &read_tensors(&weights) {
            let trial = Trial::new("llama-gqa", name);
            edit_tensors(&trial.weights(), |tensors| {
                tensors.remove(key);
            });
            trial.refused(&[], &["adapter_model.safetensors", key, "is missing"]);

            let trial = Trial::new("llama-gqa", name);
            edit_tensors(&trial.weights(), |tensors| {
                let wrong = tensors.get_mut(key).unwrap();
                wrong.shape[0] += 1;
                let row = wrong.values.len() / (wrong.shape[0] - 1);
                wrong.values.extend(vec![0.5; row]);
            });
            let expected = format!("expected {:?}", tensor.shape);
            trial.refused(&[], &["adapter_model.safetensors", key, &expected]);
        }
        let trial = Trial::new("llama-gqa", name);
        edit_tensors(&trial.weights(), |tensors| {
            let any = tensors.values().next().unwrap().clone();
            tensors.insert("another".to_owned(), any);
        });
        trial.refused(&[], &["adapter_model.safetensors", "another"]);
    }
}

/// Experiments with several tasks, and a variant of each.
const WITH_TASKS: [(&str, &str); 3] = [
    ("poly-last-task", "unmerged"),
    ("poly-last-task", "merged"),
    ("multitask-prompt-tuning-last-task", "unmerged"),
];

#[test]
fn what_was_prepared_for_one_task_is_not_used_for_another() {
    for (name, variant) in WITH_TASKS {
        let trial = Trial::new("opt-pre", name);
        let logits = |task: &str| {
            let options = ["--variant", variant, "--task-id", task];
            trial.logits(&[&PROMPT[..], &options].concat())
        };
        let first = logits("0");
        assert_eq!(
            trial.manifest(variant)["adapter"]["task"],
            json!({"id": 0, "of": 3})
        );
        let other = logits("2");
        assert_eq!(
            trial.manifest(variant)["adapter"]["task"],
            json!({"id": 2, "of": 3})
        );
        assert!(relative_difference(&first, &other) > 1e-3, "{name}");
        assert_eq!(logits("0"), first);
    }
}

#[test]
fn the_first_task_is_taken_and_said_where_none_is_asked_for() {
    for (name, variant) in WITH_TASKS {
        let trial = Trial::new("opt-pre", name);
        let options = [&PROMPT[..], &["--variant", variant]].concat();
        let outcome = trial.run("generate", &options);
        assert!(
            outcome.stderr.contains("3 tasks, and this is task 0"),
            "{outcome:?}"
        );
        let again = trial.run("generate", &options);
        assert!(
            again.stderr.contains("3 tasks, and this is task 0"),
            "{again:?}"
        );
        let asked = trial.run("generate", &[&options[..], &["--task-id", "0"]].concat());
        assert!(!asked.stderr.contains("tasks"), "{asked:?}");
        assert_eq!(asked.stdout, outcome.stdout);

        let parameters = trial.experiment.join("benchmark_params.json");
        fs::write(&parameters, r#"{"task_id": 2}"#).unwrap();
        let of_parameters = trial.logits(&options);
        assert_eq!(trial.manifest(variant)["adapter"]["task"]["id"], 2);
        fs::write(&parameters, r#"{"task_id": 1}"#).unwrap();
        let outranked = trial.logits(&[&options[..], &["--task-id", "2"]].concat());
        assert_eq!(of_parameters, outranked);
        fs::write(&parameters, r#"{"task_id": -1}"#).unwrap();
        assert_refused(
            &trial.run("generate", &options),
            &["benchmark_params.json", "`task_id`"],
        );
    }
}

#[test]
fn a_task_that_is_not_there_is_refused() {
    for (name, key) in [
        ("poly-last-task", "n_tasks"),
        ("multitask-prompt-tuning-last-task", "num_tasks"),
    ] {
        for trial in [Trial::new("opt-pre", name), Trial::fresh("opt-pre", name)] {
            let words = ["no task 3", "adapter_config.json", "has 3", key];
            trial.refused(&["--task-id", "3"], &words);
            assert_refused(&trial.run("verify", &["--task-id", "3"]), &words);
        }
        // PEFT has no such key.
        let trial = Trial::new("opt-pre", name);
        trial.set("task_id", json!(2));
        let with_key = trial.logits(&PROMPT);
        assert_eq!(with_key, Trial::new("opt-pre", name).logits(&PROMPT));
    }
    for name in ["lora", "prompt-tuning", "prefix-tuning"] {
        let trial = Trial::new("opt-pre", name);
        let peft_type = name.to_uppercase().replace('-', "_");
        for task in ["0", "1"] {
            // Whether it's prepared already or not.
            for _ in 0..2 {
                trial.refused(
                    &["--task-id", task],
                    &["--task-id", &peft_type, "doesn't know tasks"],
                );
                assert_eq!(trial.run("prepare", &[]).code, Some(0));
            }
        }
        let base = trial.run(
            "generate",
            &[&PROMPT[..], &["--variant", "base", "--task-id", "0"]].concat(),
        );
        assert_refused(&base, &["--task-id", "`base`"]);
    }
    let outcome = Trial::new("opt-pre", "lora").run("prepare", &["--task-id", "first"]);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
}

#[test]
fn a_prepared_folder_keeps_its_task() {
    let trial = Trial::new("opt-pre", "poly-last-task");
    assert_eq!(trial.run("prepare", &["--task-id", "2"]).code, Some(0));
    let exported = trial.root.path().join("exported");
    let folder = exported.join(&names(&exported)[0]).join("poly--trial");
    let run = |task: &str| {
        let mut command = program([
            "generate",
            "--ep",
            "cpu",
            "--prompt-ids",
            "1,2",
            "--task-id",
            task,
        ]);
        common::run(command.arg(&folder))
    };
    assert_eq!(run("2").code, Some(0));
    assert_refused(&run("1"), &["--task-id 1", "prepared for task 2 of 3"]);
}
