//! Invalid configurations of base models.

use std::fs;

use serde_json::{Value, json};

use crate::common::*;
use crate::spoilt::Spoilt;

#[test]
fn an_unsupported_architecture_is_refused_and_the_nearest_ones_named() {
    let trial = Spoilt::new("llama-gqa", "lora");
    set_key(&trial.base_config(), "model_type", json!("mamba"));
    trial.base_refused(&[
        "config.json",
        "model_type",
        "`mamba`",
        "did you mean",
        "peft-bench models",
    ]);
    remove_key(&trial.base_config(), "model_type");
    trial.base_refused(&[
        "config.json",
        "`model_type` is missing",
        "`llama`",
        "peft-bench models",
    ]);
    for broken in ["", "[]", "7", "{\"model_type\"", "nul"] {
        fs::write(trial.base_config(), broken).unwrap();
        trial.base_refused(&["base-model", "config.json"]);
    }
    fs::remove_file(trial.base_config()).unwrap();
    trial.refused(
        &trial.prepare(&[]),
        &["base-model", "config.json", "cannot read"],
    );
}

/// Values that are never valid sizes.
fn no_sizes() -> Vec<Value> {
    vec![
        json!(0),
        json!(-1),
        json!(1.5),
        json!("64"),
        json!([64]),
        json!({}),
        json!(true),
        json!(1_u64 << 60),
        json!(u64::MAX),
        json!(1e30),
    ]
}

#[test]
fn impossible_sizes_are_refused_by_name() {
    for (model, sizes) in [
        (
            "llama-gqa",
            &[
                "hidden_size",
                "intermediate_size",
                "vocab_size",
                "num_attention_heads",
                "num_key_value_heads",
                "num_hidden_layers",
                "head_dim",
                "max_position_embeddings",
            ][..],
        ),
        (
            "opt-pre",
            &[
                "hidden_size",
                "ffn_dim",
                "vocab_size",
                "num_attention_heads",
                "num_hidden_layers",
                "word_embed_proj_dim",
                "max_position_embeddings",
            ][..],
        ),
    ] {
        let trial = Spoilt::new(model, "lora");
        let whole = fs::read(trial.base_config()).unwrap();
        for key in sizes {
            for value in no_sizes() {
                set_key(&trial.base_config(), key, value.clone());
                let outcome = trial.prepare(&[]);
                assert_eq!(outcome.code, Some(1), "{model} {key} {value}: {outcome:?}");
                trial.refused(
                    &outcome,
                    &["config.json", &format!("`{key}`"), "positive integer"],
                );
                fs::write(trial.base_config(), &whole).unwrap();
            }
        }
    }
}

#[test]
fn sizes_that_the_weights_do_not_have_are_refused_without_allocating_them() {
    let large = json!(1_u64 << 30);
    for model in ["llama-gqa", "opt-pre"] {
        let trial = Spoilt::new(model, "lora");
        let whole = fs::read(trial.base_config()).unwrap();
        let config = read_json(&trial.base_config());
        let sizes = [
            "hidden_size",
            "intermediate_size",
            "ffn_dim",
            "vocab_size",
            "head_dim",
        ];
        let counts = [
            "num_attention_heads",
            "num_key_value_heads",
            "num_hidden_layers",
        ];
        for key in sizes.into_iter().chain(counts) {
            if config.get(key).is_none() {
                continue;
            }
            for value in [large.clone(), json!(3), json!(1 << 16)] {
                // Embeddings may have more rows than the vocabulary.
                if key == "vocab_size" && value == 3 {
                    continue;
                }
                set_key(&trial.base_config(), key, value.clone());
                let outcome = trial.prepare(&[]);
                assert_eq!(outcome.code, Some(1), "{model} {key} {value}: {outcome:?}");
                trial.refused(&outcome, &["base-model"]);
                fs::write(trial.base_config(), &whole).unwrap();
            }
        }
    }
}

#[test]
fn missing_required_keys_are_named() {
    for (model, keys) in [
        (
            "llama-gqa",
            &[
                "hidden_size",
                "intermediate_size",
                "vocab_size",
                "num_attention_heads",
            ][..],
        ),
        (
            "opt-pre",
            &[
                "hidden_size",
                "ffn_dim",
                "max_position_embeddings",
                "num_hidden_layers",
            ][..],
        ),
    ] {
        let trial = Spoilt::new(model, "lora");
        let whole = fs::read(trial.base_config()).unwrap();
        for key in keys {
            remove_key(&trial.base_config(), key);
            trial.base_refused(&["config.json", &format!("`{key}` is missing")]);
            fs::write(trial.base_config(), &whole).unwrap();
        }
    }
}

#[test]
fn values_that_a_model_cannot_have_are_refused_by_name() {
    for (model, key, value) in [
        ("llama-gqa", "num_key_value_heads", json!(3)),
        ("llama-gqa", "head_dim", json!(15)),
        ("llama-gqa", "hidden_act", json!("swoosh")),
        ("llama-gqa", "hidden_act", json!(1)),
        ("llama-gqa", "attention_bias", json!("no")),
        ("llama-gqa", "tie_word_embeddings", json!(0)),
        ("llama-gqa", "rms_norm_eps", json!("small")),
        ("llama-gqa", "rms_norm_eps", json!(-1.0)),
        ("llama-gqa", "partial_rotary_factor", json!(0.5)),
        (
            "llama-gqa",
            "rope_parameters",
            json!({"rope_type": "ntk-by-parts", "factor": 2.0}),
        ),
        (
            "llama-gqa",
            "rope_parameters",
            json!({"rope_type": "linear"}),
        ),
        (
            "llama-gqa",
            "rope_parameters",
            json!({"rope_type": "linear", "factor": 0}),
        ),
        (
            "llama-gqa",
            "rope_parameters",
            json!({"rope_type": "linear", "factor": 1e-300}),
        ),
        (
            "llama-gqa",
            "rope_parameters",
            json!({"rope_type": "llama3", "factor": 2.0}),
        ),
        ("llama-gqa", "rope_parameters", json!({"rope_type": 3})),
        ("llama-gqa", "rope_parameters", json!({"rope_theta": -1})),
        (
            "llama-gqa",
            "rope_parameters",
            json!({"rope_theta": 1e-300}),
        ),
        ("llama-gqa", "rope_parameters", json!("default")),
        ("opt-pre", "num_attention_heads", json!(5)),
        ("opt-pre", "activation_function", json!("swoosh")),
        ("opt-pre", "enable_bias", json!("yes")),
        ("opt-pre", "do_layer_norm_before", json!([])),
        ("mistral", "sliding_window", json!(0)),
        ("mistral", "sliding_window", json!("all")),
        ("qwen2", "layer_types", json!(["full_attention"])),
        (
            "qwen2",
            "layer_types",
            json!(["full_attention", "chunked_attention"]),
        ),
        (
            "qwen2",
            "rope_parameters",
            json!({"rope_type": "yarn", "factor": -1}),
        ),
        ("qwen3", "rope_parameters", json!({"rope_type": "dynamic"})),
        ("smollm3", "no_rope_layers", json!([1, 2])),
        ("smollm3", "no_rope_layers", json!([1])),
        ("olmo", "clip_qkv", json!(0)),
        ("granite", "logits_scaling", json!(0)),
        (
            "stablelm",
            "rope_parameters",
            json!({"rope_type": "default", "partial_rotary_factor": 0.4}),
        ),
        ("gemma", "use_bidirectional_attention", json!(true)),
        ("gemma2", "attn_logit_softcapping", json!(-1)),
        ("gemma2", "query_pre_attn_scalar", json!(0)),
        ("gemma3", "use_bidirectional_attention", json!(true)),
        (
            "phi3",
            "rope_parameters",
            json!({"rope_type": "longrope", "short_factor": [1, 1], "long_factor": [1, 1]}),
        ),
        ("gpt2", "add_cross_attention", json!(true)),
        ("gptj", "rotary_dim", json!(7)),
        ("gptj", "rotary_dim", json!(null)),
        ("falcon", "num_ln_in_parallel_attn", json!(2)),
        ("falcon-groups", "parallel_attn", json!(false)),
        ("falcon-groups", "num_kv_heads", json!(3)),
        ("falcon-heads", "num_kv_heads", json!(2)),
        ("bloom", "n_head", json!(5)),
        ("mixtral", "num_experts_per_tok", json!(5)),
        ("qwen3-moe", "mlp_only_layers", json!("all")),
        ("mpt", "no_bias", json!(false)),
        ("mpt", "logit_scale", json!(0.5)),
        ("mpt", "attn_config", json!({"alibi": false})),
        ("mpt", "attn_config", json!({"qk_ln": true})),
        (
            "mpt",
            "attn_config",
            json!({"attn_type": "multiquery_attention"}),
        ),
    ] {
        let trial = Spoilt::new(model, "lora");
        set_key(&trial.base_config(), key, value.clone());
        let outcome = trial.prepare(&[]);
        assert_eq!(outcome.code, Some(1), "{model} {key} {value}: {outcome:?}");
        let key = match key {
            "rope_parameters" => "rope",
            key => key,
        };
        trial.refused(&outcome, &["config.json", key]);
    }
}
