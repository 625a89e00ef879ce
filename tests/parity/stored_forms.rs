//! A model and an adapter, stored in different forms: forms that Transformers and PEFT treat alike
//! must give the same logits here, others must not.

use std::path::{Path, PathBuf};

use crate::common::*;
use peft_bench::weights::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A copy of a base and of one of its adapters, to be stored in another form.
struct Form {
    root: TempDir,
    base: PathBuf,
    adapter: PathBuf,
    case: Value,
}

impl Form {
    fn of(model_name: &str, case_name: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let folder = case(model_name, case_name);
        Self {
            base: copy_folder(&model(model_name), &root.path().join("base-model")),
            adapter: copy_folder(&folder, &root.path().join("adapter")),
            case: read_json(&folder.join("case.json")),
            root,
        }
    }

    fn config(&self) -> PathBuf {
        self.base.join("config.json")
    }

    fn adapter_config(&self) -> PathBuf {
        self.adapter.join("adapter_config.json")
    }

    /// Changes the tensors of the base, which are in one file and in float32.
    fn edit_base(&self, change: impl FnOnce(&mut Tensors)) {
        let mut tensors = read_checkpoint(&self.base);
        change(&mut tensors);
        write_tensors(
            &self.base.join("model.safetensors"),
            &tensors,
            Dtype::Float32,
        );
    }

    /// Changes every value of these tensors of the base.
    fn change_base(&self, names: &[&str], change: impl Fn(&mut f32)) {
        self.edit_base(|tensors| {
            for name in names {
                let values = &mut tensors.get_mut(*name).unwrap().values;
                values.iter_mut().for_each(&change);
            }
        });
    }

    /// Adds copies of base tensors, changed by `change`, to the adapter's file. `pairs`: the key
    /// there, and the base's.
    fn save_with_adapter(&self, pairs: &[(&str, &str)], change: impl Fn(&mut f32)) {
        let base = read_checkpoint(&self.base);
        edit_tensors(&self.adapter.join("adapter_model.safetensors"), |tensors| {
            for (key, source) in pairs {
                let mut tensor = base[*source].clone();
                tensor.values.iter_mut().for_each(&change);
                tensors.insert((*key).to_owned(), tensor);
            }
        });
    }

    /// The logits of `generate` for the case's prompt.
    fn logits(&self, variant: &str) -> Vec<f32> {
        let target = match variant {
            "base" => &self.base,
            _ => &self.adapter,
        };
        self.logits_of(target, variant)
    }

    fn logits_of(&self, target: &Path, variant: &str) -> Vec<f32> {
        let ids: Vec<String> = self.case["prompt_ids"]
            .as_array()
            .unwrap()
            .iter()
            .map(Value::to_string)
            .collect();
        let file = self.root.path().join("logits.safetensors");
        let mut command = program(["generate", "--ep", "cpu", "--threads", "1", "--json"]);
        command.args(["--variant", variant, "--prompt-ids", &ids.join(",")]);
        command.args(["--max-new-tokens", "8"]).arg(target);
        if target != self.base {
            command.arg("--model").arg(&self.base);
        }
        command
            .arg("--export-dir")
            .arg(self.root.path().join("exported"));
        let outcome = run(command.arg("--logits").arg(&file));
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        read_tensors(&file).remove("logits").unwrap().values
    }

    /// PEFT's logits for `variant`.
    fn expected(&self, variant: &str) -> Vec<f32> {
        let path = self.adapter.join("expected.safetensors");
        read_tensors(&path).remove(variant).unwrap().values
    }

    /// The logits of the checkpoint that `prepare --format hf` writes.
    fn logits_of_checkpoint(&self) -> Vec<f32> {
        let exported = self.root.path().join("checkpoints");
        let mut command = program(["prepare", "--ep", "cpu", "--format", "hf"]);
        command.arg(&self.adapter).arg("--model").arg(&self.base);
        let outcome = run(command.arg("--export-dir").arg(&exported));
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let model = exported.join(&names(&exported)[0]);
        let checkpoint = model.join(&names(&model)[0]).join("checkpoint");
        let whole = Self {
            root: tempfile::tempdir().unwrap(),
            base: checkpoint,
            adapter: self.adapter.clone(),
            case: self.case.clone(),
        };
        whole.logits("base")
    }
}

#[track_caller]
fn assert_same(actual: &[f32], expected: &[f32]) {
    let difference = relative_difference(actual, expected);
    assert!(difference <= TOLERANCE, "off by {difference:e}");
}

#[track_caller]
fn assert_apart(actual: &[f32], expected: &[f32]) {
    let difference = relative_difference(actual, expected);
    assert!(difference > 100.0 * TOLERANCE, "off by {difference:e} only");
}

const EMBEDDING: &str = "model.embed_tokens.weight";

#[test]
fn a_head_that_is_stored_apart_is_not_tied() {
    let form = Form::of("llama-gqa", "base");
    set_key(&form.config(), "tie_word_embeddings", json!(true));
    assert_same(&form.logits("base"), &form.expected("base"));

    let form = Form::of("llama-gqa", "lora");
    set_key(&form.config(), "tie_word_embeddings", json!(true));
    assert_same(&form.logits("unmerged"), &form.expected("unmerged"));
    assert_same(&form.logits_of_checkpoint(), &form.expected("merged"));
}

/// PEFT goes by the configuration alone.
#[test]
fn replaced_rows_are_the_heads_too_where_a_tied_models_head_is_stored_apart() {
    const ROWS: &str = "token_adapter.trainable_tokens_delta";
    let of = |tied: bool| {
        let form = Form::of("llama-tied", "lora-tokens");
        set_key(&form.config(), "tie_word_embeddings", json!(tied));
        form.edit_base(|tensors| {
            let mut head = tensors[EMBEDDING].clone();
            head.values.iter_mut().for_each(|value| *value *= -1.5);
            tensors.insert("lm_head.weight".to_owned(), head);
        });
        form
    };
    let both = of(false);
    let rows = read_json(&both.adapter_config())["trainable_token_indices"].clone();
    set_key(
        &both.adapter_config(),
        "trainable_token_indices",
        json!({"embed_tokens": rows, "lm_head": rows}),
    );
    edit_tensors(&both.adapter.join("adapter_model.safetensors"), |tensors| {
        let own = tensors[&format!("base_model.model.model.embed_tokens.{ROWS}")].clone();
        tensors.insert(format!("base_model.model.lm_head.{ROWS}"), own);
    });
    for variant in ["unmerged", "merged"] {
        assert_same(&of(true).logits(variant), &both.logits(variant));
    }
    assert_apart(&of(true).logits("unmerged"), &both.logits("base"));
}

#[test]
fn one_tensor_serves_a_tied_model_under_either_name_or_both() {
    for keeps in [true, false] {
        let form = Form::of("llama-tied", "lora");
        form.edit_base(|tensors| {
            let embedding = tensors[EMBEDDING].clone();
            tensors.insert("lm_head.weight".to_owned(), embedding);
            if !keeps {
                tensors.remove(EMBEDDING);
            }
        });
        for variant in ["unmerged", "merged"] {
            assert_same(&form.logits(variant), &form.expected(variant));
        }
    }
}

/// The tensors that `save_embedding_layers` adds to the file.
#[test]
fn embeddings_saved_with_an_adapter_replace_the_base_s() {
    let keys = ["base_model.model.lm_head.weight", "lm_head.weight"];
    let pair = [
        (keys[0], keys[1]),
        ("base_model.model.model.embed_tokens.weight", EMBEDDING),
    ];
    for model_name in ["llama-gqa", "llama-rope3"] {
        let form = Form::of(model_name, "lora");
        form.save_with_adapter(&pair, |_| {});
        for variant in ["unmerged", "merged"] {
            assert_same(&form.logits(variant), &form.expected(variant));
        }
        // The same as a base with these tensors, and an adapter without.
        let other = Form::of(model_name, "lora");
        let change = |value: &mut f32| *value = *value * 0.75 + 0.03;
        form.save_with_adapter(&pair, change);
        other.change_base(&pair.map(|(_, source)| source), change);
        for variant in ["unmerged", "merged"] {
            assert_same(&form.logits(variant), &other.logits(variant));
            assert_apart(&form.logits(variant), &form.expected(variant));
        }
    }
}

#[test]
fn in_a_tied_model_one_saved_embedding_replaces_both() {
    let form = Form::of("llama-tied", "lora");
    let key = "base_model.model.lm_head.weight";
    form.save_with_adapter(&[(key, EMBEDDING)], |value| *value *= 0.7);
    let other = Form::of("llama-tied", "lora");
    other.change_base(&[EMBEDDING], |value| *value *= 0.7);
    for variant in ["unmerged", "merged"] {
        assert_same(&form.logits(variant), &other.logits(variant));
        assert_apart(&form.logits(variant), &form.expected(variant));
    }
}

#[test]
fn with_prompt_tuning_saved_embeddings_have_one_prefix_less() {
    let form = Form::of("opt-pre", "prompt-tuning");
    let source = "model.decoder.embed_tokens.weight";
    let key = "base_model.model.decoder.embed_tokens.weight";
    form.save_with_adapter(&[(key, source)], |_| {});
    assert_same(&form.logits("unmerged"), &form.expected("unmerged"));
}

/// The head's weight also replaces the embedding's; its bias replaces no other.
#[test]
fn in_a_tied_model_a_head_keeps_its_own_bias() {
    let form = Form::of("phi-tied", "lora");
    let pair = [
        ("base_model.model.lm_head.weight", EMBEDDING),
        ("base_model.model.lm_head.bias", "lm_head.bias"),
    ];
    let change = |value: &mut f32| *value = *value * 0.7 + 0.1;
    form.save_with_adapter(&pair, change);
    let other = Form::of("phi-tied", "lora");
    other.change_base(&pair.map(|(_, source)| source), change);
    for variant in ["unmerged", "merged"] {
        assert_same(&form.logits(variant), &other.logits(variant));
        assert_apart(&form.logits(variant), &form.expected(variant));
    }
    // The base is in float16, and so is the checkpoint.
    let off = relative_difference(&form.logits_of_checkpoint(), &form.logits("merged"));
    assert!(off < 1e-2, "{off:e}");
}

#[test]
fn with_prefix_tuning_saved_embeddings_replace_the_base_s() {
    let pair = [("base_model.model.embed_tokens.weight", EMBEDDING)];
    for case_name in ["prefix-tuning", "cartridge"] {
        let form = Form::of("llama-gqa", case_name);
        form.save_with_adapter(&pair, |value| *value *= 0.7);
        let other = Form::of("llama-gqa", case_name);
        other.change_base(&[EMBEDDING], |value| *value *= 0.7);
        assert_same(&form.logits("unmerged"), &other.logits("unmerged"));
        assert_apart(&form.logits("unmerged"), &form.expected("unmerged"));
    }
}

/// PEFT excludes shares that are exactly 0 from the second softmax.
#[test]
fn experts_without_a_share_get_none_from_a_second_softmax() {
    let form = Form::of("llama-gqa", "xlora-top-softmax");
    set_key(&form.adapter_config(), "enable_softmax", Value::Bool(true));
    edit_tensors(&form.adapter.join("adapter_model.safetensors"), |tensors| {
        let (key, bias) = tensors
            .iter_mut()
            .rfind(|(key, _)| key.contains("internal_xlora_classifier") && key.ends_with(".bias"))
            .unwrap();
        // In float32 this softmax gives exactly 1 and 0.
        bias.values.iter_mut().for_each(|value| *value = -200.0);
        bias.values[0] = 200.0;
        let weight = key.replace(".bias", ".weight");
        tensors.get_mut(&weight).unwrap().values.fill(0.0);
    });
    let twice = form.logits("unmerged");
    set_key(
        &form.adapter_config(),
        "enable_softmax_topk",
        Value::Bool(false),
    );
    set_key(&form.adapter_config(), "top_k_lora", Value::Null);
    assert_same(&twice, &form.logits("unmerged"));
    assert_apart(&twice, &form.expected("unmerged"));
}

/// With `bias: all` PEFT stores the biases of whole modules three times.
#[test]
fn copies_of_a_whole_module_s_biases_are_ignored() {
    let form = Form::of("opt-pre", "lora-save-layer-part");
    let layer = "base_model.model.model.decoder.layers.1.fc1";
    let source = "model.decoder.layers.1.fc1.bias";
    for infix in ["modules_to_save", "original_module"] {
        form.save_with_adapter(&[(&format!("{layer}.{infix}.bias"), source)], |_| {});
    }
    for variant in ["unmerged", "merged"] {
        assert_same(&form.logits(variant), &form.expected(variant));
    }
}

/// Transformers' GPT-NeoX has its own names for `rope_theta` and `partial_rotary_factor`, and
/// ignores the usual names outside `rope_parameters`.
#[test]
fn gpt_neox_has_its_own_names_for_its_rotation() {
    let form = Form::of("gpt-neox", "base");
    let parameters = read_json(&form.config())["rope_parameters"].clone();
    remove_key(&form.config(), "rope_parameters");
    for (key, value) in [
        ("rotary_emb_base", parameters["rope_theta"].clone()),
        ("rotary_pct", parameters["partial_rotary_factor"].clone()),
        ("rope_theta", json!(123.0)),
        ("partial_rotary_factor", json!(1.0)),
    ] {
        set_key(&form.config(), key, value);
    }
    assert_same(&form.logits("base"), &form.expected("base"));
}

/// Without its CUDA extension PEFT uses 1 for any number of levels.
#[test]
fn boft_without_butterflies_has_one_level() {
    let form = Form::of("llama-gqa", "boft");
    set_key(&form.adapter_config(), "boft_n_butterfly_factor", json!(0));
    assert_same(&form.logits("merged"), &form.expected("merged"));
}
