//! Invalid adapters with routers, mixtures, gates or a second network, and adapters that mix
//! others.

use std::fs;

use serde_json::{Value, json};

use crate::common::trial::{CONFIG, Trial, WEIGHTS};
use crate::common::{Tensors, assert_refused, copy_folder, edit_tensors, make_fresh, set_key};

/// Checks that `generate` refuses the unmerged variant, in `words`.
#[track_caller]
fn refused(trial: &Trial, words: &[&str]) {
    let prompt = [
        "--prompt-ids",
        "3,1,4,1,5,9,31,2,6",
        "--variant",
        "unmerged",
    ];
    assert_refused(&trial.run("generate", &prompt), words);
}

/// Sets a key of a case's configuration and checks that it's refused by its name, in `words`.
#[track_caller]
fn option_refused(model_name: &str, case_name: &str, key: &str, value: Value, words: &[&str]) {
    let trial = Trial::new(model_name, case_name);
    trial.set(key, value);
    refused(&trial, &[&[CONFIG, key], words].concat());
}

#[test]
fn an_invocation_that_no_prompt_can_hold_is_refused() {
    let key = "alora_invocation_tokens";
    for value in [
        json!([9, 100_000]),
        json!([-1]),
        json!([1.5]),
        json!("9"),
        json!({"0": 9}),
    ] {
        let words = ["a list of token ids below"];
        option_refused("llama-gqa", "lora-alora", key, value, &words);
    }
}

#[test]
fn activated_lora_is_refused_where_peft_has_no_arithmetic_for_it() {
    for (other, value) in [("use_dora", json!(true)), ("kasa_config", json!({}))] {
        let trial = Trial::new("llama-gqa", "lora-alora");
        trial.set(other, value);
        refused(&trial, &[CONFIG, other, "alora_invocation_tokens"]);
    }
    let trial = Trial::new("llama-gqa", "lora-alora");
    trial.set("target_modules", json!(["q_proj", "embed_tokens"]));
    refused(
        &trial,
        &[CONFIG, "`target_modules`", "embed_tokens", "linear layers"],
    );
}

#[test]
fn a_router_s_options_are_refused_by_name() {
    for (key, value, expected) in [
        ("top_k", json!(4), "at most 3"),
        ("top_k", json!(0), "a positive integer"),
        ("router_temperature", json!(0), "a positive number"),
        ("router_temperature", json!(1e300), "float32"),
        ("rng_seed", json!("x"), "a whole number"),
        (
            "task_adapter_names",
            json!(null),
            "the names of the experts",
        ),
        ("task_adapter_names", json!([]), "the names of the experts"),
        (
            "task_adapter_names",
            json!(["task_0", "task_0", "task_1"]),
            "differ",
        ),
        (
            "task_adapter_names",
            json!(["task_0", "task_7", "task_1"]),
            "`task_7`",
        ),
        ("use_gks", json!(true), "gks_adapter_names"),
    ] {
        let trial = Trial::new("llama-gqa", "lora-arrow");
        trial.set_arrow(key, value);
        refused(&trial, &[CONFIG, "arrow_config.", expected]);
    }
    option_refused(
        "llama-gqa",
        "lora-arrow",
        "lora_bias",
        json!(true),
        &["arrow_config"],
    );
}

#[test]
fn experts_outside_of_the_adapter_s_folder_are_refused() {
    for path in ["../task_0", "/task_0", "task_1/../../base-model", ""] {
        let trial = Trial::new("llama-gqa", "lora-arrow");
        copy_folder(
            &trial.experiment.join("task_0"),
            &trial.root.path().join("task_0"),
        );
        trial.set_arrow("task_adapter_names", json!(["task_1", "task_2", path]));
        refused(
            &trial,
            &[CONFIG, "arrow_config.task_adapter_names", "own folder"],
        );
    }
}

#[test]
fn missing_experts_are_refused_and_their_expected_path_named() {
    for (path, place) in [("/elsewhere/expert_9", "expert_9"), ("", "`adapters`")] {
        let paths = json!({"0": "expert_0", "1": "expert_1", "2": path});
        option_refused("llama-gqa", "xlora", "adapters", paths, &[place, "put it"]);
    }
}

#[test]
fn an_expert_that_is_more_than_a_plain_lora_adapter_is_refused() {
    for (case_name, expert) in [("lora-arrow", "task_1"), ("xlora", "expert_1")] {
        for (key, value) in [
            ("use_dora", json!(true)),
            ("lora_bias", json!(true)),
            ("kasa_config", json!({})),
            ("alora_invocation_tokens", json!([5])),
            ("modules_to_save", json!(["lm_head"])),
            ("trainable_token_indices", json!([5])),
            ("layer_replication", json!([[0, 2]])),
            ("bias", json!("lora_only")),
            ("init_lora_weights", json!("pissa")),
            ("peft_type", json!("LOHA")),
        ] {
            let trial = Trial::new("llama-gqa", case_name);
            set_key(&trial.file(expert, CONFIG), key, value);
            refused(
                &trial,
                &[&format!("{expert}/{CONFIG}"), &format!("`{key}`")],
            );
        }
        let trial = Trial::new("llama-gqa", case_name);
        set_key(
            &trial.file(expert, CONFIG),
            "target_modules",
            json!(["embed_tokens"]),
        );
        refused(
            &trial,
            &[
                &format!("{expert}/{CONFIG}"),
                "embed_tokens",
                "linear layers",
            ],
        );
    }
}

#[test]
fn a_spoiled_file_of_an_expert_is_refused_with_its_name() {
    for (case_name, expert) in [("lora-arrow", "task_2"), ("xlora", "expert_2")] {
        let key = "base_model.model.model.layers.1.self_attn.k_proj.lora_B.weight";
        let file = format!("{expert}/{WEIGHTS}");
        let trial = Trial::new("llama-gqa", case_name);
        edit_tensors(&trial.file(expert, WEIGHTS), |tensors| {
            tensors.remove(key).unwrap();
        });
        refused(&trial, &[&file, key, "missing"]);

        let trial = Trial::new("llama-gqa", case_name);
        edit_tensors(&trial.file(expert, WEIGHTS), |tensors| {
            let tensor = tensors.get_mut(key).unwrap();
            tensor.shape.reverse();
        });
        refused(&trial, &[&file, key, "shape", "expected [32, "]);

        let trial = Trial::new("llama-gqa", case_name);
        edit_tensors(&trial.file(expert, WEIGHTS), |tensors| {
            let tensor = tensors[key].clone();
            tensors.insert("another".to_owned(), tensor);
        });
        refused(&trial, &[&file, "`another`", "nothing in this model uses"]);

        let trial = Trial::new("llama-gqa", case_name);
        fs::rename(
            trial.file(expert, WEIGHTS),
            trial.file(expert, "adapter_model.bin"),
        )
        .unwrap();
        refused(&trial, &[&format!("{expert}/adapter_model.bin"), "pickle"]);

        let trial = Trial::new("llama-gqa", case_name);
        fs::remove_file(trial.file(expert, CONFIG)).unwrap();
        refused(&trial, &[&format!("{expert}/{CONFIG}")]);

        let trial = Trial::new("llama-gqa", case_name);
        fs::remove_dir_all(trial.experiment.join(expert)).unwrap();
        refused(&trial, &[expert]);
    }
}

#[test]
fn experts_that_do_not_fit_their_router_are_refused() {
    let trial = Trial::new("llama-gqa", "lora-arrow");
    make_fresh(&trial.experiment.join("task_1"));
    set_key(&trial.file("task_1", CONFIG), "r", json!(2));
    refused(&trial, &["task_1", "has rank 2", "expected 3"]);

    for (targets, words) in [
        (
            json!(["q_proj", "k_proj"]),
            "leaves out `model.layers.0.mlp.down_proj`",
        ),
        (
            json!(["q_proj", "k_proj", "down_proj", "o_proj"]),
            "o_proj`, which the router doesn't",
        ),
    ] {
        let trial = Trial::new("llama-gqa", "lora-arrow");
        make_fresh(&trial.experiment.join("task_1"));
        set_key(&trial.file("task_1", CONFIG), "target_modules", targets);
        refused(&trial, &["task_1", words]);
    }
}

#[test]
fn a_mixture_s_options_are_refused_by_name() {
    let three = |names: [&str; 3]| {
        let entries = names.iter().zip(["expert_0", "expert_1", "expert_2"]);
        let entries: serde_json::Map<String, Value> = entries
            .map(|(name, path)| ((*name).to_owned(), json!(path)))
            .collect();
        Value::from(entries)
    };
    for (key, value, expected) in [
        ("adapters", json!(null), "`0`, `1` and so on"),
        ("adapters", json!({}), "`0`, `1` and so on"),
        ("adapters", three(["a", "b", "c"]), "`0`, `1` and so on"),
        ("adapters", three(["0", "1", "3"]), "`0`, `1` and so on"),
        ("adapters", three(["0", "1", "02"]), "`0`, `1` and so on"),
        ("adapters", json!({"0": 5}), "a path"),
        ("hidden_size", json!(65), "expected 64"),
        ("softmax_temperature", json!(-1), "a positive number"),
        ("top_k_lora", json!(4), "at most 3"),
        ("xlora_depth", json!(1_000_000_000), "a positive integer"),
        ("enable_softmax", json!("yes"), "`true` or `false`"),
        ("global_scaling_weight", json!(1e200), "float32"),
    ] {
        option_refused("llama-gqa", "xlora", key, value, &[expected]);
    }
    let key = "scaling_pass_value";
    option_refused("llama-gqa", "xlora-top", key, json!(0.5), &["top_k_lora"]);
    let key = "xlora_size";
    option_refused(
        "llama-gqa",
        "xlora-top",
        key,
        json!(1_u64 << 40),
        &["a positive integer"],
    );
}

#[test]
fn a_mixture_without_its_classifier_is_refused_with_advice() {
    for (case_name, layer) in [("xlora", 0), ("xlora-top", 2)] {
        let trial = Trial::new("llama-gqa", case_name);
        let key = format!("base_model.internal_xlora_classifier.layers.{layer}.weight");
        edit_tensors(&trial.weights(), |tensors| {
            tensors.remove(&key).unwrap();
        });
        refused(&trial, &[WEIGHTS, &key, "omits parts of the classifier"]);
    }
    let trial = Trial::new("llama-gqa", "xlora");
    trial.set("xlora_depth", json!(2));
    refused(
        &trial,
        &[WEIGHTS, "layers.0.weight", "shape", "expected [10, 64]"],
    );
}

#[test]
fn lily_is_refused_where_its_file_or_its_options_do_not_fit() {
    let layer = "base_model.model.model.layers.1.self_attn.q_proj";
    for (key, value, expected) in [
        ("num_B", json!(1), "at least 2"),
        ("num_B", json!(70_000), "at most"),
        ("stride_A", json!(0), "a positive integer"),
        ("scaling", json!("x"), "a number"),
        ("target_modules", json!(["q_proj", "lm_head"]), "lm_head"),
        (
            "target_modules",
            json!(["q_proj", "self_attn.q_proj"]),
            "several of its entries",
        ),
    ] {
        option_refused("llama-gqa", "lily", key, value, &[expected]);
    }
    let spoiled = |key: &str, change: &dyn Fn(&mut Tensors, &str), words: &[&str]| {
        let trial = Trial::new("llama-gqa", "lily");
        let key = format!("{layer}.{key}");
        edit_tensors(&trial.weights(), |tensors| change(tensors, &key));
        refused(&trial, &[&[WEIGHTS, key.as_str()], words].concat());
    };
    let remove = |tensors: &mut Tensors, key: &str| _ = tensors.remove(key).unwrap();
    let turn = |tensors: &mut Tensors, key: &str| tensors.get_mut(key).unwrap().shape.reverse();
    let change = |tensors: &mut Tensors, key: &str| tensors.get_mut(key).unwrap().values[7] += 1.0;
    for key in ["lily_A.weight", "lily_B.weight", "lily_router.weight"] {
        spoiled(key, &remove, &["missing"]);
        spoiled(key, &turn, &["shape", "expected"]);
    }
    spoiled(
        "lily_B.weight",
        &change,
        &["differs from", "layers.0", "the same tensor"],
    );
}

#[test]
fn shadow_is_refused_where_its_file_or_its_options_do_not_fit() {
    for (key, value, expected) in [
        ("shadow_model", json!("someone/else"), "`mirror`"),
        ("target_modules", json!(["q_proj"]), "matches no module"),
        ("target_modules", json!(".*layers.*"), "whole blocks"),
        (
            "shadow_num_hidden_layers",
            json!(1_000_000_000),
            "a positive integer",
        ),
        (
            "shadow_hidden_size",
            json!(1_u64 << 40),
            "a positive integer",
        ),
        ("update_hidden_size", json!(0), "a positive integer"),
        ("shadow_alpha", json!(1e300), "float32"),
    ] {
        option_refused("llama-gqa", "shadow", key, value, &[expected]);
    }
    for key in [
        "base_model.shadow_backbone.default.layers.0.self_attn.q_proj.weight",
        "base_model.shadow_backbone.default.norm.weight",
        "base_model.model.model.layers.0.shadow_up.default.weight",
        // After the last block, where it's unused.
        "base_model.model.model.layers.1.shadow_update_gate.default.2.bias",
    ] {
        let trial = Trial::new("llama-gqa", "shadow");
        edit_tensors(&trial.weights(), |tensors| {
            tensors.remove(key).unwrap();
        });
        refused(&trial, &[WEIGHTS, key, "missing"]);
        let trial = Trial::new("llama-gqa", "shadow");
        edit_tensors(&trial.weights(), |tensors| {
            tensors.get_mut(key).unwrap().shape.push(1);
        });
        refused(&trial, &[WEIGHTS, key, "shape", "expected"]);
    }
    // A second backbone layer, and another width.
    let trial = Trial::new("llama-gqa", "shadow");
    trial.set("shadow_num_hidden_layers", json!(2));
    refused(
        &trial,
        &[WEIGHTS, "shadow_backbone.default.layers.1.", "missing"],
    );
    let trial = Trial::new("llama-gqa", "shadow");
    trial.set("shadow_intermediate_size", json!(8));
    refused(
        &trial,
        &[
            WEIGHTS,
            "shadow_backbone.default.layers.0.mlp.",
            "expected [8, 64]",
        ],
    );
}

#[test]
fn blocks_with_gaps_between_them_are_refused() {
    let trial = Trial::with_own_model("llama-gqa", "shadow");
    set_key(
        &trial.model.join("config.json"),
        "num_hidden_layers",
        json!(3),
    );
    edit_tensors(&trial.model.join("model.safetensors"), |tensors| {
        let last: Vec<_> = tensors
            .iter()
            .filter(|(name, _)| name.contains("layers.1."))
            .map(|(name, tensor)| (name.replace("layers.1.", "layers.2."), tensor.clone()))
            .collect();
        tensors.extend(last);
    });
    trial.set(
        "target_modules",
        json!(["model.layers.0", "model.layers.2"]),
    );
    refused(&trial, &[CONFIG, "`target_modules`", "gaps"]);
}

#[test]
fn clusters_that_differ_from_the_file_are_refused_with_advice() {
    let way_out = "merge_and_unload";
    let trial = Trial::new("llama-gqa", "adamss");
    let key = "base_model.model.model.layers.0.self_attn.k_proj.adamss_newB";
    edit_tensors(&trial.weights(), |tensors| {
        // Another row of the same length, outside the span.
        let columns = tensors[key].shape[1];
        let row = &mut tensors.get_mut(key).unwrap().values[..columns];
        row.iter_mut().step_by(2).for_each(|value| *value *= -1.0);
    });
    refused(&trial, &[WEIGHTS, key, "random_seed", way_out]);

    let trial = Trial::with_own_model("llama-gqa", "adamss");
    edit_tensors(&trial.model.join("model.safetensors"), |tensors| {
        // The same span of inputs, from rows in another order.
        let weight = tensors
            .get_mut("model.layers.0.self_attn.k_proj.weight")
            .unwrap();
        let columns = weight.shape[1];
        let middle = weight.values.len() / 2 / columns * columns;
        weight.values.rotate_left(middle);
    });
    refused(
        &trial,
        &[WEIGHTS, "layers.0.self_attn.k_proj.adamss_", way_out],
    );

    for (key, value, expected) in [
        ("init_weights", json!("other"), "`orthogonal`"),
        ("num_subspaces", json!(0), "a positive integer"),
        ("random_seed", json!("x"), "a whole number"),
        ("r", json!(1_000_000), "at most"),
    ] {
        option_refused("llama-gqa", "adamss", key, value, &[expected]);
    }
    let trial = Trial::new("llama-gqa", "adamss");
    trial.set("num_subspaces", json!(2));
    refused(&trial, &[WEIGHTS, "adamss_B", "rows together, expected"]);
}
