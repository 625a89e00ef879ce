//! Invalid adapter configurations and `benchmark_params.json` files.

use std::fs;

use serde_json::json;

use crate::common::{make_fresh, model, remove_key};
use crate::spoilt::Spoilt;

#[test]
fn an_unknown_key_of_an_experiments_parameters_is_refused() {
    let trial = Spoilt::new("llama-gqa", "lora");
    let path = trial.experiment.join("benchmark_params.json");
    fs::write(&path, r#"{"num_inferance_runs": 3}"#).unwrap();
    trial.adapter_refused(&[
        "benchmark_params.json",
        "`num_inferance_runs`",
        "did you mean `num_inference_runs`",
    ]);
    fs::write(&path, r#"{"max_new_tokens": "many"}"#).unwrap();
    trial.adapter_refused(&[
        "benchmark_params.json",
        "`max_new_tokens`",
        "an integer from 1",
    ]);
    fs::write(&path, r#"{"dtype": "float64"}"#).unwrap();
    trial.adapter_refused(&["benchmark_params.json", "`dtype`", "`bfloat16`"]);
    fs::write(&path, "{").unwrap();
    trial.adapter_refused(&["benchmark_params.json", "JSON"]);
}

#[test]
fn targets_that_match_no_module_are_refused() {
    for names in [
        json!(["w_proj"]),
        json!("w_proj"),
        json!([]),
        json!([""]),
        json!(".*\\.W"),
    ] {
        let trial = Spoilt::new("llama-gqa", "lora");
        trial.set("target_modules", names.clone());
        let words = [
            "adapter_config.json",
            "`target_modules`",
            "matches no module",
            "q_proj",
        ];
        trial.adapter_refused(&words);
        make_fresh(&trial.experiment);
        trial.adapter_refused(&words);
    }
}

#[test]
fn one_misspelt_target_of_several_is_refused_in_a_fresh_experiment() {
    let fresh = |key: &str, names: &[&str]| {
        let config = json!({"peft_type": "LORA", "target_modules": ["q_proj"]});
        let trial = Spoilt::fresh("llama-gqa", config);
        trial.set(key, json!(names));
        trial
    };
    let trial = fresh("target_modules", &["q_proj", "v_proj", "v_porj"]);
    let words = [
        "adapter_config.json",
        "`v_porj`",
        "`target_modules`",
        "v_proj",
    ];
    trial.adapter_refused(&words);

    let trial = fresh("modules_to_save", &["lm_haed"]);
    trial.adapter_refused(&[
        "adapter_config.json",
        "`lm_haed`",
        "`modules_to_save`",
        "lm_head",
    ]);
}

#[test]
fn layers_that_do_not_exist_are_refused() {
    for layers in [
        json!(2),
        json!([0, 2]),
        json!([u64::MAX]),
        json!([0, 1_000_000_000_000_u64]),
    ] {
        let trial = Spoilt::fresh(
            "llama-gqa",
            json!({"peft_type": "LORA", "target_modules": ["q_proj"]}),
        );
        trial.set("layers_to_transform", layers);
        trial.adapter_refused(&["adapter_config.json", "`layers_to_transform`", "0 to 1"]);
    }
    for layers in [json!(-1), json!(["0"]), json!(0.5), json!({})] {
        let trial = Spoilt::new("llama-gqa", "lora");
        trial.set("layers_to_transform", layers);
        trial.adapter_refused(&["adapter_config.json", "`layers_to_transform`", "index"]);
    }
}

/// Transformers takes a layer's kind from its new place, but its weights from the old one.
#[test]
fn layers_that_differ_are_not_replicated() {
    for (model, ranges) in [
        ("qwen3-5", json!([[0, 2], [0, 3]])),
        ("lfm2", json!([[0, 3], [0, 3]])),
        ("bamba", json!([[1, 2], [0, 1]])),
        ("nemotron-h", json!([[0, 4]])),
        ("olmo3", json!([[1, 2], [0, 1]])),
        ("smollm3", json!([[0, 2], [0, 2]])),
        ("gemma3n", json!([[1, 2], [0, 1]])),
        ("gemma4-layers", json!([[0, 4]])),
    ] {
        let config = json!({"peft_type": "LORA", "target_modules": "all-linear", "layer_replication": ranges});
        let trial = Spoilt::fresh(model, config);
        trial.adapter_refused(&[
            "adapter_config.json",
            "`layer_replication`",
            "layers of this model",
        ]);
    }
}

#[test]
fn an_unsupported_method_is_refused_and_the_supported_ones_listed() {
    for name in ["BONE", "lora", "../../LORA", ""] {
        let trial = Spoilt::new("llama-gqa", "lora");
        trial.set("peft_type", json!(name));
        let words = ["adapter_config.json", "peft_type", name, "did you mean `"];
        trial.adapter_refused(&words);
    }
    let trial = Spoilt::new("llama-gqa", "lora");
    remove_key(&trial.adapter_config(), "peft_type");
    trial.adapter_refused(&["adapter_config.json", "`peft_type` is missing", "LORA"]);
    let trial = Spoilt::new("llama-gqa", "lora");
    trial.set("peft_type", json!(["LORA"]));
    trial.adapter_refused(&["adapter_config.json", "`peft_type`", "a string"]);
}

#[test]
fn options_that_change_the_arithmetic_and_are_not_implemented_are_refused() {
    for (key, value) in [
        ("use_bdlora", json!(true)),
        (
            "use_bdlora",
            json!({"target_modules_bd_a": ["x_proj"], "nblocks": 2}),
        ),
        ("alora_invocation_tokens", json!([1, 100_000])),
        ("arrow_config", json!(["task_0"])),
        ("init_lora_weights", json!("pissa_niter_4")),
        ("init_lora_weights", json!("loftq")),
        ("init_lora_weights", json!("corda")),
        ("init_lora_weights", json!("lora_ga")),
        ("init_lora_weights", json!(3)),
        ("bias", json!("some")),
        ("task_type", json!(3)),
    ] {
        let trial = Spoilt::new("llama-gqa", "lora");
        trial.set(key, value);
        trial.adapter_refused(&["adapter_config.json", &format!("`{key}`")]);
    }
}

#[test]
fn lora_variants_that_peft_does_not_combine_are_refused_together() {
    for (first, key) in [
        ("use_dora", "kasa_config"),
        ("velora_config", "monteclora_config"),
    ] {
        let trial = Spoilt::new("llama-gqa", "lora");
        let value = |key: &str| match key {
            "use_dora" => json!(true),
            _ => json!({}),
        };
        trial.set(first, value(first)).set(key, value(key));
        trial.adapter_refused(&["adapter_config.json", &format!("`{key}`"), first]);
    }
}

#[test]
fn options_of_other_methods_are_refused_by_name() {
    for (case_name, key, value) in [
        ("fourierft", "scaling", json!(1e300)),
        ("fourierft", "n_frequency", json!(1_000_000)),
        ("frod", "sparse_rate", json!(2)),
        ("osf", "effective_rank", json!(-3)),
        ("osf", "effective_rank", json!(0.001)),
        ("psoft-diagonal", "ab_svd_init", json!("other")),
        ("psoft-diagonal", "psoft_svd", json!("lowrank")),
        ("psoft-diagonal", "r", json!(1000)),
        ("pvera", "sample_at_inference", json!(true)),
        ("shira", "r", json!(1000)),
        ("supertuning", "sparsity", json!(1.0)),
        ("supertuning", "sparsity", json!(0.999_999)),
        ("tinylora", "weight_tying", json!(1.5)),
        ("unilora", "proj_seed", json!(-1)),
        ("vera", "projection_prng_key", json!(0.5)),
        ("waveft", "wavelet_family", json!("coif4")),
        ("waveft", "n_frequency", json!(1_000_000)),
    ] {
        let trial = Spoilt::new("llama-gqa", case_name);
        trial.set(key, value);
        trial.adapter_refused(&["adapter_config.json", &format!("`{key}`")]);
    }
}

#[test]
fn a_fresh_adapter_with_random_effect_is_refused() {
    let config = |r: usize| {
        let config =
            json!({"peft_type": "HRA", "r": r, "apply_GS": true, "target_modules": ["q_proj"]});
        Spoilt::fresh("llama-gqa", config)
    };
    config(4).adapter_refused(&["adapter_config.json", "`apply_GS`", "fresh"]);
    let odd = config(3).prepare(&[]);
    assert_eq!(odd.code, Some(0), "{odd:?}");
}

#[test]
fn hostile_values_of_an_adapters_configuration_are_refused_by_name() {
    let lora = json!({"peft_type": "LORA", "target_modules": ["q_proj"], "r": 4, "lora_alpha": 8});
    for (key, value) in [
        ("r", json!(0)),
        ("r", json!(-4)),
        ("r", json!(4.5)),
        ("r", json!("4")),
        ("r", json!(1_u64 << 30)),
        ("r", json!(1_u64 << 31)),
        ("r", json!(u64::MAX)),
        ("lora_alpha", json!("8")),
        ("lora_alpha", json!(1e300)),
        ("use_dora", json!("yes")),
        ("use_rslora", json!(1)),
        ("rank_pattern", json!({"q_proj": 0})),
        ("rank_pattern", json!({"q_proj": 0.5})),
        ("rank_pattern", json!({"q_proj": 1e18})),
        ("rank_pattern", json!({"q_proj": "4"})),
        ("rank_pattern", json!({"(": 4})),
        ("rank_pattern", json!(["q_proj"])),
        ("alpha_pattern", json!({"q_proj": 1e300})),
        ("alpha_pattern", json!({"q_proj": null})),
        ("target_modules", json!(7)),
        ("target_modules", json!([7])),
        ("target_modules", json!("(q_proj")),
        ("target_modules", json!("(?P<a>q_proj)(?P<a>x)")),
        (
            "target_modules",
            json!("((((x{100}){100}){100}){100}){100}"),
        ),
        (
            "target_modules",
            json!(format!("{}x{}", "(".repeat(100_000), ")".repeat(100_000))),
        ),
        ("exclude_modules", json!("[")),
        ("exclude_modules", json!(false)),
        ("layers_pattern", json!("layers")),
        ("layer_replication", json!([[0, 3]])),
        ("layer_replication", json!([[1, 1]])),
        ("layer_replication", json!([[0, 1, 2]])),
        ("layer_replication", json!([])),
        ("layer_replication", json!("twice")),
        ("modules_to_save", json!("lm_head")),
        ("trainable_token_indices", json!([-1])),
        ("trainable_token_indices", json!([140])),
        ("trainable_token_indices", json!({"lm_haed": [1]})),
        ("trainable_token_indices", json!("all")),
        ("trainable_token_indices", json!([])),
        ("trainable_token_indices", json!([3, 3])),
    ] {
        let trial = Spoilt::fresh("llama-gqa", lora.clone());
        trial.set(key, value.clone());
        for variant in ["unmerged", "merged"] {
            let outcome = trial.prepare(&["--variant", variant]);
            assert_eq!(outcome.code, Some(1), "{key} {value:.60}: {outcome:.300?}");
            trial.refused(&outcome, &["adapter_config.json", key]);
        }
    }
}

#[test]
fn prompt_learning_with_absurd_sizes_is_refused_without_allocating_them() {
    for (peft_type, key, value) in [
        ("PROMPT_TUNING", "num_virtual_tokens", json!(1_000_000_000)),
        ("PROMPT_TUNING", "num_virtual_tokens", json!(u64::MAX)),
        ("PROMPT_TUNING", "num_virtual_tokens", json!(129)),
        ("PROMPT_TUNING", "num_virtual_tokens", json!(0)),
        ("PROMPT_TUNING", "num_virtual_tokens", json!(null)),
        ("PROMPT_TUNING", "token_dim", json!(65)),
        ("PROMPT_TUNING", "prompt_tuning_init", json!("LAZY")),
        ("PREFIX_TUNING", "num_virtual_tokens", json!(1_000_000_000)),
        ("PREFIX_TUNING", "num_virtual_tokens", json!(129)),
        ("PREFIX_TUNING", "num_virtual_tokens", json!(-1)),
        ("PREFIX_TUNING", "encoder_hidden_size", json!(1_000_000_000)),
        ("PREFIX_TUNING", "num_layers", json!(3)),
    ] {
        let config = json!({
            "peft_type": peft_type, "num_virtual_tokens": 4, "prefix_projection": true,
        });
        let trial = Spoilt::fresh("llama-gqa", config);
        trial.set(key, value.clone());
        let outcome = trial.prepare(&["--variant", "unmerged"]);
        assert_eq!(outcome.code, Some(1), "{key} {value}: {outcome:?}");
        trial.refused(
            &outcome,
            &["adapter_config.json", &format!("`{key}`"), "expected"],
        );
    }
}

#[test]
fn an_initial_prompt_text_with_tokens_beyond_the_vocabulary_is_refused() {
    let config = json!({
        "peft_type": "PROMPT_TUNING", "num_virtual_tokens": 30,
        "prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "zebra ~ zebra",
    });
    let trial = Spoilt::fresh("llama-rope3", config);
    let unmerged = ["--variant", "unmerged"];
    trial.refused(
        &trial.prepare(&unmerged),
        &["adapter_config.json", "tokenizer"],
    );
    // A tokenizer with 136 tokens, and an embedding with 96 rows.
    fs::copy(
        model("llama-gqa").join("tokenizer.json"),
        trial.base.join("tokenizer.json"),
    )
    .unwrap();
    trial.refused(
        &trial.prepare(&unmerged),
        &["adapter_config.json", "token id", "96"],
    );
}

#[test]
fn a_regular_expression_with_exponential_backtracking_is_refused() {
    // Nothing matches the final `!`, which backtracking finds out after 2^n steps; the look-ahead
    // makes the engine backtrack.
    let trial = Spoilt::fresh("llama-gqa", json!({"peft_type": "LORA"}));
    trial.set("target_modules", json!(r"(\w|\.|\w\w|\w\.)*(?=!)!"));
    trial.adapter_refused(&["adapter_config.json", "target_modules", "backtrack"]);
    // The same after an alternative that matches at once: the rest must not be skipped.
    trial.set("target_modules", json!(r"lm_head|(\w|\.|\w\w|\w\.)*(?=!)!"));
    trial.adapter_refused(&["adapter_config.json", "target_modules", "backtrack"]);
}

#[test]
fn malformed_deeply_nested_and_repeated_json_is_handled() {
    let trial = Spoilt::new("llama-gqa", "lora");
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    fs::write(
        trial.adapter_config(),
        format!(r#"{{"peft_type": {deep}}}"#),
    )
    .unwrap();
    trial.adapter_refused(&["adapter_config.json", "recursion limit"]);
    for broken in [
        "",
        "{",
        "[]",
        "null",
        "{\"peft_type\": \"LORA\",}",
        "\u{feff}{}",
        "\0",
    ] {
        fs::write(trial.adapter_config(), broken).unwrap();
        trial.adapter_refused(&["adapter_config.json"]);
    }
    fs::write(
        trial.adapter_config(),
        [b'{', b'"', 0xff, b'"', b':', b'1', b'}'],
    )
    .unwrap();
    trial.adapter_refused(&["adapter_config.json"]);
    // The last one counts, as in Python.
    let twice = r#"{"peft_type": "LORA", "r": 4, "r": 0, "target_modules": ["q_proj", "v_proj"]}"#;
    fs::write(trial.adapter_config(), twice).unwrap();
    trial.adapter_refused(&["adapter_config.json", "`r`", "positive integer"]);
}
