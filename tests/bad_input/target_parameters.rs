//! Adapters on `target_parameters` and on experts, and Shadow, on models that they don't fit.

use serde_json::json;

use crate::common::make_fresh;
use crate::spoilt::Spoilt;

#[test]
fn a_shadow_of_a_model_that_it_cannot_mirror_is_refused() {
    let config = json!({"peft_type": "SHADOW", "task_type": "CAUSAL_LM", "r": 4});
    for (model, words) in [("mixtral", "experts"), ("olmoe", "experts")] {
        let trial = Spoilt::fresh(model, config.clone());
        trial.refused(&trial.prepare(&[]), &["SHADOW", words]);
    }
}

#[test]
fn experts_are_adapted_by_lora_alone() {
    let trial = Spoilt::fresh(
        "mixtral",
        json!({"peft_type": "LOHA", "r": 2, "target_modules": ["q_proj", "w1"]}),
    );
    trial.refused(
        &trial.prepare(&[]),
        &["adapter_config.json", "experts.0.w1"],
    );
}

#[test]
fn options_that_peft_refuses_with_target_parameters_are_refused() {
    for (key, value) in [
        ("lora_dropout", json!(0.1)),
        ("fan_in_fan_out", json!(true)),
        ("lora_bias", json!(true)),
        ("use_dora", json!(true)),
        ("velora_config", json!({})),
        ("kasa_config", json!({})),
        ("monteclora_config", json!({})),
        ("alora_invocation_tokens", json!([1])),
        ("init_lora_weights", json!("pissa")),
        ("init_lora_weights", json!("olora")),
        ("init_lora_weights", json!("mica")),
    ] {
        let trial = Spoilt::new("mixtral", "lora-experts");
        trial.set(key, value);
        let words = [
            "adapter_config.json",
            &format!("`{key}`"),
            "`target_parameters`",
        ];
        trial.refused(&trial.prepare(&[]), &words);
    }
}

#[test]
fn orthogonal_initialization_of_stacked_experts_is_refused() {
    let trial = Spoilt::new("mixtral", "lora-experts");
    trial.set("init_lora_weights", json!("orthogonal"));
    make_fresh(&trial.experiment);
    let words = [
        "adapter_config.json",
        "`init_lora_weights`",
        "stacked experts",
    ];
    trial.refused(&trial.prepare(&[]), &words);
}

#[test]
fn parameters_that_cannot_be_adapted_are_refused() {
    for (key, value, words) in [
        (
            "target_parameters",
            json!("gate_up_proj"),
            ["`target_parameters`", "a list"],
        ),
        (
            "target_parameters",
            json!(["gate_proj"]),
            ["tensors that nothing", "experts.base_layer.lora_A"],
        ),
        (
            "target_parameters",
            json!(["norm.weight"]),
            ["`model.norm.weight`", "experts"],
        ),
        (
            "target_parameters",
            json!(["q_proj.weight"]),
            ["`target_modules`", "q_proj.weight"],
        ),
        (
            "modules_to_save",
            json!(["experts"]),
            ["`modules_to_save`", "gate_up_proj"],
        ),
        ("target_modules", json!(["w1", "w2"]), ["`w1`", "`w3`"]),
    ] {
        let trial = Spoilt::new("mixtral", "lora-experts");
        trial.set(key, value);
        trial.refused(&trial.prepare(&[]), &words);
    }
}

#[test]
fn a_file_that_does_not_fit_the_experts_is_refused() {
    // Without `down_proj`, the tensors stored at the experts module itself would be
    // `gate_up_proj`'s.
    let trial = Spoilt::new("mixtral", "lora-experts");
    trial.set("target_parameters", json!(["experts.gate_up_proj"]));
    trial.refused(
        &trial.prepare(&[]),
        &["mlp.experts.lora_A.weight", "[8, 24]", "[8, 32]"],
    );

    // Without `w2`, PEFT reads single experts' gate and up tensors as those of a nested wrapper
    // that doesn't exist.
    let trial = Spoilt::new("mixtral", "lora-single-experts");
    trial.set("target_modules", json!(["q_proj", "w1", "w3", "gate"]));
    trial.refused(&trial.prepare(&[]), &["`target_modules`", "`w2`"]);

    let trial = Spoilt::new("mixtral", "lora-single-experts");
    trial.set("rank_pattern", json!({"gate_up_proj": 3}));
    trial.refused(&trial.prepare(&[]), &["`gate_up_proj`", "even rank", "3"]);
}

#[test]
fn target_parameters_have_no_native_form() {
    for (model, case) in [("mixtral", "lora-experts"), ("gpt2", "lora-parameters")] {
        let trial = Spoilt::new(model, case);
        let outcome = trial.prepare(&["--adapter-form", "native"]);
        trial.refused(&outcome, &["`--adapter-form native`", "LORA"]);
    }
}
