//! Invalid tensor files of adapters.

use std::fs;

use serde_json::{Value, json};

use crate::common::{case, edit_tensors, read_tensors};
use crate::safetensors_bytes::{header_of, spoilt_files, with_header};
use crate::spoilt::Spoilt;

#[test]
fn a_tensor_of_the_wrong_shape_is_refused() {
    const NAME: &str = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight";
    let trial = Spoilt::new("llama-gqa", "lora");
    edit_tensors(&trial.weights(), |tensors| {
        tensors.get_mut(NAME).unwrap().shape.swap(0, 1);
    });
    trial.adapter_refused(&[
        "adapter_model.safetensors",
        NAME,
        "[4, 32]",
        "expected [32, 4]",
    ]);

    let trial = Spoilt::new("llama-gqa", "lora");
    trial.set("r", json!(5));
    trial.adapter_refused(&[
        "adapter_model.safetensors",
        "lora_A.weight",
        "expected [5, 64]",
    ]);
}

#[test]
fn a_missing_tensor_is_refused() {
    const NAME: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    let trial = Spoilt::new("llama-gqa", "lora");
    edit_tensors(&trial.weights(), |tensors| {
        tensors.remove(NAME).unwrap();
    });
    trial.adapter_refused(&["adapter_model.safetensors", NAME, "missing"]);
}

#[test]
fn a_saved_head_of_another_shape_is_refused_if_the_method_uses_the_bases_head() {
    let trial = Spoilt::new("llama-gqa", "osf");
    trial.set(
        "target_modules",
        json!(["lm_head", "q_proj", "k_proj", "down_proj"]),
    );
    let mut head = read_tensors(&trial.base_weights())["lm_head.weight"].clone();
    head.values[0] += 1.0;
    edit_tensors(&trial.weights(), |tensors| {
        let name = "base_model.model.lm_head.base_layer.weight";
        tensors.insert(name.to_owned(), head);
    });
    trial.adapter_refused(&["adapter_model.safetensors", "`lm_head.base_layer.weight`"]);
}

#[test]
fn a_tensor_that_nothing_uses_is_refused() {
    let trial = Spoilt::new("llama-gqa", "lora");
    edit_tensors(&trial.weights(), |tensors| {
        let extra = tensors.values().next().unwrap().clone();
        tensors.insert("base_model.model.extra.lora_A.weight".to_owned(), extra);
    });
    trial.adapter_refused(&[
        "adapter_model.safetensors",
        "`base_model.model.extra.lora_A.weight`",
        "nothing in this model uses",
    ]);

    // Trained for two kinds of modules, but configured for one.
    let trial = Spoilt::new("llama-gqa", "lora");
    trial.set("target_modules", json!(["q_proj"]));
    trial.adapter_refused(&["adapter_model.safetensors", "v_proj.lora_A", "4 in all"]);
}

#[test]
fn a_tied_head_that_peft_would_lose_is_refused() {
    let trial = Spoilt::new("gpt2", "lora-tie-embed");
    edit_tensors(&trial.weights(), |tensors| {
        let extra = tensors.values().next().unwrap().clone();
        tensors.insert("base_model.model.lm_head.lora_A.weight".to_owned(), extra);
    });
    trial.adapter_refused(&["`ensure_weight_tying`", "`lm_head.lora_A.weight`"]);

    let trial = Spoilt::new("llama-tied", "lora-tokens-apart");
    trial.set("ensure_weight_tying", json!(true));
    trial.adapter_refused(&["`ensure_weight_tying`", "lists"]);

    // The file that PEFT writes, which keeps only part of the head's weight and of the embedding's.
    let config =
        json!({"peft_type": "LORA", "target_modules": ["lm_head"], "init_lora_weights": "olora"});
    let trial = Spoilt::fresh("llama-tied", config);
    trial.adapter_refused(&["`init_lora_weights`", "`lm_head`", "tied"]);

    let trial = Spoilt::new("llama-tied", "lora-tie-save-embed");
    trial.set("target_modules", json!(["q_proj", "lm_head"]));
    trial.adapter_refused(&["`ensure_weight_tying`", "`lm_head` is saved"]);
}

#[test]
fn an_adapter_of_integers_is_refused() {
    let trial = Spoilt::new("llama-gqa", "lora");
    let bytes = fs::read(trial.weights()).unwrap();
    let header = header_of(&bytes).replacen("\"F32\"", "\"I32\"", 1);
    fs::write(trial.weights(), with_header(&header, &bytes)).unwrap();
    trial.adapter_refused(&[
        "adapter_model.safetensors",
        "lora_",
        "I32",
        "supported: F32",
    ]);
}

#[test]
fn a_rounded_basis_is_refused() {
    const NAME: &str = "base_model.frod_V.self_attn_q_proj";
    let trial = Spoilt::new("llama-gqa", "frod");
    let bytes = fs::read(trial.weights()).unwrap();
    let mut header: Value = serde_json::from_str(&header_of(&bytes)).unwrap();
    let columns = header[NAME]["shape"][1].as_u64().unwrap();
    // The byte count stays the same.
    header[NAME]["dtype"] = json!("F16");
    header[NAME]["shape"][1] = json!(2 * columns);
    fs::write(trial.weights(), with_header(&header.to_string(), &bytes)).unwrap();
    trial.adapter_refused(&["adapter_model.safetensors", NAME, "F16", "expected F32"]);
}

#[test]
fn an_adapter_made_for_another_base_is_refused_and_its_base_named() {
    let trial = Spoilt::new("llama-tied", "lora");
    let other = case("llama-gqa", "lora");
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(other.join(file), trial.experiment.join(file)).unwrap();
    }
    trial.adapter_refused(&[
        "adapter_model.safetensors",
        "q_proj.lora_A.weight",
        "[4, 64]",
        "expected [4, 48]",
        "made for this base model",
        "`models/llama-gqa`",
    ]);
    for prompt_learning in ["prompt-tuning", "prefix-tuning"] {
        let trial = Spoilt::new("llama-rope3", "lora");
        let other = case("llama-gqa", prompt_learning);
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            fs::copy(other.join(file), trial.experiment.join(file)).unwrap();
        }
        trial.adapter_refused(&["adapter_config.json", "token_dim", "expected"]);
    }
}

#[test]
fn a_pickled_adapter_is_refused() {
    let trial = Spoilt::new("llama-gqa", "lora");
    fs::rename(trial.weights(), trial.experiment.join("adapter_model.bin")).unwrap();
    trial.adapter_refused(&["adapter_model.bin", "pickle", "adapter_model.safetensors"]);
}

#[test]
fn tensors_that_a_seed_could_redraw_are_still_required_in_the_file() {
    for (case_name, tensor) in [
        ("vera", "base_model.vera_A"),
        ("pvera", "base_model.pvera_B"),
        ("randlora", "base_model.randlora_A"),
        (
            "tinylora",
            "base_model.model.model.layers.0.self_attn.q_proj.tinylora_P",
        ),
    ] {
        let trial = Spoilt::new("llama-gqa", case_name);
        edit_tensors(&trial.weights(), |tensors| {
            assert!(tensors.remove(tensor).is_some());
        });
        trial.adapter_refused(&[
            "adapter_model.safetensors",
            &format!("`{tensor}`"),
            "missing",
        ]);
    }
}

#[test]
fn tensors_of_another_shape_are_refused_whatever_the_method() {
    let layer = "base_model.model.model.layers.0.self_attn.q_proj";
    for (case_name, tensor) in [
        ("vera", format!("{layer}.vera_lambda_b")),
        ("vera", "base_model.vera_B".to_owned()),
        ("randlora", format!("{layer}.randlora_gamma")),
        ("fourierft", format!("{layer}.fourierft_spectrum")),
        ("waveft", format!("{layer}.waveft_spectrum")),
        ("tinylora", "base_model.tinylora_v.0".to_owned()),
        ("unilora", "base_model.unilora_theta_d".to_owned()),
        ("osf", format!("{layer}.osf_svd_params.U_low")),
        ("psoft-diagonal", format!("{layer}.psoft_R.vector_a")),
        ("lora-kasa", format!("{layer}.lora_diag")),
        ("lora-blocks", format!("{layer}.lora_B.weight")),
        ("lora-qalora", format!("{layer}.lora_A.weight")),
    ] {
        let trial = Spoilt::new("llama-gqa", case_name);
        edit_tensors(&trial.weights(), |tensors| {
            let tensor = tensors.get_mut(&tensor).unwrap();
            tensor.shape.push(1);
        });
        let named = format!("`{tensor}`");
        trial.adapter_refused(&["adapter_model.safetensors", &named, "expected"]);
    }
}

#[test]
fn a_malformed_adapter_file_is_refused() {
    let trial = Spoilt::new("llama-gqa", "lora");
    for (label, words, bytes) in spoilt_files(&fs::read(trial.weights()).unwrap()) {
        fs::write(trial.weights(), bytes).unwrap();
        let outcome = trial.prepare(&["--variant", "merged"]);
        assert_eq!(outcome.code, Some(1), "{label}: {outcome:?}");
        trial.adapter_refused(&["adapter_model.safetensors", &words]);
    }
    fs::remove_file(trial.weights()).unwrap();
    fs::create_dir(trial.weights()).unwrap();
    trial.adapter_refused(&["adapter_model.safetensors"]);
}
