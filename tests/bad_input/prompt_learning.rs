//! Invalid prompt-learning adapters and adaption prompts.

use serde_json::json;

use crate::common::trial::Trial;
use crate::common::{assert_refused, case, edit_tensors, model, read_tensors};

#[test]
fn impossible_prompt_configurations_are_refused_by_key() {
    let (huge, beyond) = (json!(1_000_000_000), json!(u64::MAX));
    for (case_name, key, value) in [
        ("cartridge", "num_virtual_tokens", json!(129)),
        ("cartridge", "num_virtual_tokens", beyond.clone()),
        ("cartridge", "num_frozen_tokens", json!(6)),
        ("cartridge", "num_frozen_tokens", json!(-1)),
        ("cartridge", "num_layers", json!(3)),
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
fn every_tensor_is_required_with_its_shape() {
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
