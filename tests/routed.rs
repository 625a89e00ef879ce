//! Methods with routers, mixtures, gates or a second network, beyond what the fixtures say: what is refused and in which
//! words, how fresh ones begin, and that files of experts count.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::*;
use serde_json::{Value, json};
use tempfile::TempDir;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// KiB of address space that a run may take: a size from a file must not be allocated unseen.
const ADDRESS_SPACE: u32 = 8 << 20;

/// A copy of a case, to be spoiled.
struct Trial {
    root: TempDir,
    base: PathBuf,
    adapter: PathBuf,
}

impl Trial {
    fn new(model_name: &str, case_name: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        Self {
            base: copy_folder(&model(model_name), &root.path().join("base-model")),
            adapter: copy_folder(&case(model_name, case_name), &root.path().join("adapter")),
            root,
        }
    }

    /// A file of the adapter: of its own folder, or of the `expert` below it.
    fn file(&self, expert: &str, name: &str) -> PathBuf {
        self.adapter.join(expert).join(name)
    }

    fn set(&self, key: &str, value: Value) {
        set_key(&self.file("", CONFIG), key, value);
    }

    /// Runs `generate`; the logits, or what was written to stderr.
    fn logits(&self, variant: &str) -> Result<Tensor, String> {
        let limited = format!("ulimit -v {ADDRESS_SPACE}; exec \"$0\" \"$@\"");
        let logits = self.root.path().join("logits.safetensors");
        let mut command = std::process::Command::new("sh");
        command
            .env("MALLOC_ARENA_MAX", "2")
            .args(["-c", &limited, PROGRAM])
            .args(["generate", "--ep", "cpu", "--threads", "1", "--json"])
            .args([
                "--prompt-ids",
                "3,1,4,1,5,9,31,2,6",
                "--max-new-tokens",
                "4",
            ])
            .args(["--variant", variant])
            .arg(&self.adapter)
            .arg("--model")
            .arg(&self.base)
            .arg("--export-dir")
            .arg(self.root.path().join("exported"))
            .arg("--logits")
            .arg(&logits);
        let outcome = run(&mut command);
        match outcome.code {
            Some(0) => Ok(read_tensors(&logits).remove("logits").unwrap()),
            Some(1) if outcome.stdout.is_empty() => Err(outcome.error().unwrap().to_owned()),
            _ => panic!("{outcome:?}"),
        }
    }

    #[track_caller]
    fn refused(&self, words: &[&str]) {
        let error = self.logits("unmerged").expect_err("it's to be refused");
        for word in words {
            assert!(error.contains(word), "`{word}` is not in `{error}`");
        }
    }
}

/// Sets a key of a case's configuration and checks that it's refused by its name, in `words`.
#[track_caller]
fn option_refused(model_name: &str, case_name: &str, key: &str, value: Value, words: &[&str]) {
    let trial = Trial::new(model_name, case_name);
    trial.set(key, value);
    trial.refused(&[&[CONFIG, key], words].concat());
}

/// Sets a key of `arrow_config`.
fn set_arrow(trial: &Trial, key: &str, value: Value) {
    let path = trial.file("", CONFIG);
    let mut arrow = read_json(&path)["arrow_config"].clone();
    arrow[key] = value;
    set_key(&path, "arrow_config", arrow);
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
        trial.refused(&[CONFIG, other, "alora_invocation_tokens"]);
    }
    let trial = Trial::new("llama-gqa", "lora-alora");
    trial.set("target_modules", json!(["q_proj", "embed_tokens"]));
    trial.refused(&[CONFIG, "`target_modules`", "embed_tokens", "linear layers"]);
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
        set_arrow(&trial, key, value);
        trial.refused(&[CONFIG, "arrow_config.", expected]);
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
            &trial.adapter.join("task_0"),
            &trial.root.path().join("task_0"),
        );
        set_arrow(
            &trial,
            "task_adapter_names",
            json!(["task_1", "task_2", path]),
        );
        trial.refused(&[CONFIG, "arrow_config.task_adapter_names", "own folder"]);

        let trial = Trial::new("llama-gqa", "xlora");
        copy_folder(
            &trial.adapter.join("expert_0"),
            &trial.root.path().join("task_0"),
        );
        let paths = json!({"0": "expert_0", "1": "expert_1", "2": path});
        option_refused("llama-gqa", "xlora", "adapters", paths, &["own folder"]);
    }
}

#[test]
fn experts_beside_a_router_s_folder_are_found_as_peft_saves_them() {
    let inside = Trial::new("llama-gqa", "lora-arrow")
        .logits("unmerged")
        .unwrap();
    let mut trial = Trial::new("llama-gqa", "lora-arrow");
    let router = trial.adapter.join("arrow_router");
    fs::create_dir(&router).unwrap();
    for name in [CONFIG, WEIGHTS] {
        fs::rename(trial.adapter.join(name), router.join(name)).unwrap();
    }
    trial.adapter = router;
    assert_eq!(trial.logits("unmerged").unwrap(), inside);
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
            trial.refused(&[&format!("{expert}/{CONFIG}"), &format!("`{key}`")]);
        }
        let trial = Trial::new("llama-gqa", case_name);
        set_key(
            &trial.file(expert, CONFIG),
            "target_modules",
            json!(["embed_tokens"]),
        );
        trial.refused(&[
            &format!("{expert}/{CONFIG}"),
            "embed_tokens",
            "linear layers",
        ]);
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
        trial.refused(&[&file, key, "missing"]);

        let trial = Trial::new("llama-gqa", case_name);
        edit_tensors(&trial.file(expert, WEIGHTS), |tensors| {
            let tensor = tensors.get_mut(key).unwrap();
            tensor.shape.reverse();
        });
        trial.refused(&[&file, key, "shape", "expected [32, "]);

        let trial = Trial::new("llama-gqa", case_name);
        edit_tensors(&trial.file(expert, WEIGHTS), |tensors| {
            let tensor = tensors[key].clone();
            tensors.insert("another".to_owned(), tensor);
        });
        trial.refused(&[&file, "`another`", "nothing in this model uses"]);

        let trial = Trial::new("llama-gqa", case_name);
        fs::rename(
            trial.file(expert, WEIGHTS),
            trial.file(expert, "adapter_model.bin"),
        )
        .unwrap();
        trial.refused(&[&format!("{expert}/adapter_model.bin"), "pickle"]);

        let trial = Trial::new("llama-gqa", case_name);
        fs::remove_file(trial.file(expert, CONFIG)).unwrap();
        trial.refused(&[&format!("{expert}/{CONFIG}")]);

        let trial = Trial::new("llama-gqa", case_name);
        fs::remove_dir_all(trial.adapter.join(expert)).unwrap();
        trial.refused(&[expert]);
    }
}

#[test]
fn experts_that_do_not_fit_their_router_are_refused() {
    let trial = Trial::new("llama-gqa", "lora-arrow");
    fs::remove_file(trial.file("task_1", WEIGHTS)).unwrap();
    set_key(&trial.file("task_1", CONFIG), "r", json!(2));
    trial.refused(&["task_1", "has rank 2", "expected 3"]);

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
        fs::remove_file(trial.file("task_1", WEIGHTS)).unwrap();
        set_key(&trial.file("task_1", CONFIG), "target_modules", targets);
        trial.refused(&["task_1", words]);
    }
}

#[test]
fn an_expert_s_file_counts_among_what_a_prepared_folder_is_made_from() {
    for (case_name, expert) in [("lora-arrow", "task_1"), ("xlora", "expert_1")] {
        let trial = Trial::new("llama-gqa", case_name);
        let before = trial.logits("unmerged").unwrap();
        edit_tensors(&trial.file(expert, WEIGHTS), |tensors| {
            for tensor in tensors.values_mut() {
                tensor.values.iter_mut().for_each(|value| *value *= -1.5);
                tensor.values[0] += 0.5;
            }
        });
        let after = trial.logits("unmerged").unwrap();
        assert!(relative_difference(&after.values, &before.values) > 1e-3);
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
fn a_mixture_without_its_classifier_is_refused_with_the_way_out() {
    for (case_name, layer) in [("xlora", 0), ("xlora-top", 2)] {
        let trial = Trial::new("llama-gqa", case_name);
        let key = format!("base_model.internal_xlora_classifier.layers.{layer}.weight");
        edit_tensors(&trial.file("", WEIGHTS), |tensors| {
            tensors.remove(&key).unwrap();
        });
        trial.refused(&[WEIGHTS, &key, "leaves parts of the classifier out"]);
    }
    let trial = Trial::new("llama-gqa", "xlora");
    trial.set("xlora_depth", json!(2));
    trial.refused(&[WEIGHTS, "layers.0.weight", "shape", "expected [10, 64]"]);
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
            json!(["q_proj", "j", "proj"]),
            "matches no module",
        ),
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
        edit_tensors(&trial.file("", WEIGHTS), |tensors| change(tensors, &key));
        trial.refused(&[&[WEIGHTS, key.as_str()], words].concat());
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
        &["differs from", "layers.0", "the same one"],
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
        // Behind the last block, where it takes no part.
        "base_model.model.model.layers.1.shadow_update_gate.default.2.bias",
    ] {
        let trial = Trial::new("llama-gqa", "shadow");
        edit_tensors(&trial.file("", WEIGHTS), |tensors| {
            tensors.remove(key).unwrap();
        });
        trial.refused(&[WEIGHTS, key, "missing"]);
        let trial = Trial::new("llama-gqa", "shadow");
        edit_tensors(&trial.file("", WEIGHTS), |tensors| {
            tensors.get_mut(key).unwrap().shape.push(1);
        });
        trial.refused(&[WEIGHTS, key, "shape", "expected"]);
    }
    // A second layer of the backbone, and another width.
    let trial = Trial::new("llama-gqa", "shadow");
    trial.set("shadow_num_hidden_layers", json!(2));
    trial.refused(&[WEIGHTS, "shadow_backbone.default.layers.1.", "missing"]);
    let trial = Trial::new("llama-gqa", "shadow");
    trial.set("shadow_intermediate_size", json!(8));
    trial.refused(&[
        WEIGHTS,
        "shadow_backbone.default.layers.0.mlp.",
        "expected [8, 64]",
    ]);
}

#[test]
fn blocks_with_gaps_between_them_are_refused() {
    let trial = Trial::new("llama-gqa", "shadow");
    set_key(
        &trial.base.join("config.json"),
        "num_hidden_layers",
        json!(3),
    );
    edit_tensors(&trial.base.join("model.safetensors"), |tensors| {
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
    trial.refused(&[CONFIG, "`target_modules`", "gaps"]);
}

#[test]
fn clusters_that_do_not_come_out_as_in_the_file_are_refused_with_the_way_out() {
    let way_out = "merge_and_unload";
    let trial = Trial::new("llama-gqa", "adamss");
    let key = "base_model.model.model.layers.0.self_attn.k_proj.adamss_newB";
    edit_tensors(&trial.file("", WEIGHTS), |tensors| {
        // Another row of the same length, outside of the span.
        let columns = tensors[key].shape[1];
        let row = &mut tensors.get_mut(key).unwrap().values[..columns];
        row.iter_mut().step_by(2).for_each(|value| *value *= -1.0);
    });
    trial.refused(&[WEIGHTS, key, "random_seed", way_out]);

    let trial = Trial::new("llama-gqa", "adamss");
    edit_tensors(&trial.base.join("model.safetensors"), |tensors| {
        // The same span of inputs from rows that are another way round.
        let weight = tensors
            .get_mut("model.layers.0.self_attn.k_proj.weight")
            .unwrap();
        let columns = weight.shape[1];
        let middle = weight.values.len() / 2 / columns * columns;
        weight.values.rotate_left(middle);
    });
    trial.refused(&[WEIGHTS, "layers.0.self_attn.k_proj.adamss_", way_out]);

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
    trial.refused(&[WEIGHTS, "adamss_B", "rows together, expected"]);
}

/// Leaves only the configurations of an adapter and of its experts.
fn make_fresh(adapter: &Path) {
    for file in files_below(adapter) {
        if file.file_name().unwrap() != CONFIG {
            fs::remove_file(file).unwrap();
        }
    }
}

#[test]
fn a_fresh_one_starts_as_the_base() {
    for (model_name, case_name) in [
        ("llama-gqa", "adamss"),
        ("llama-gqa", "lily"),
        ("llama-gqa", "lora-alora"),
        ("llama-gqa", "lora-arrow-general"),
        ("llama-gqa", "shadow"),
        ("llama-gqa", "xlora-top-softmax"),
        ("llama-bias", "shadow-narrow"),
        ("llama-bias", "xlora-layerwise"),
        ("opt-pre", "adamss"),
        ("opt-pre", "lily"),
        ("opt-pre", "shadow"),
        ("opt-pre", "xlora"),
    ] {
        let trial = Trial::new(model_name, case_name);
        make_fresh(&trial.adapter);
        let base = trial.logits("base").unwrap();
        let unmerged = trial.logits("unmerged").unwrap();
        let difference = relative_difference(&unmerged.values, &base.values);
        assert!(difference < 1e-5, "{model_name}/{case_name}: {difference}");
    }
}

#[test]
fn experts_without_tensors_are_drawn_apart() {
    let trial = Trial::new("llama-gqa", "lora-arrow");
    make_fresh(&trial.adapter);
    for expert in ["task_0", "task_1", "task_2"] {
        set_key(
            &trial.file(expert, CONFIG),
            "init_lora_weights",
            json!(false),
        );
    }
    let base = trial.logits("base").unwrap();
    let unmerged = trial.logits("unmerged").unwrap();
    assert!(relative_difference(&unmerged.values, &base.values) > 1e-3);
    // One alone is something else than all of them.
    set_arrow(&trial, "top_k", json!(1));
    let one = trial.logits("unmerged").unwrap();
    assert!(relative_difference(&unmerged.values, &one.values) > 1e-4);
}
