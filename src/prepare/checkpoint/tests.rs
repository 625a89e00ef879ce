use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{CheckpointForm, CheckpointSummary, write_checkpoint, write_sharded};
use crate::adapter::Adapter;
use crate::graph::{Parameter, Parameters};
use crate::model::BaseModel;
use crate::prepare::PrepareError;
use crate::prepare::export::Shared;
use crate::prepare::merge::merge;
use crate::prepared::Precision;
use crate::weights::{Dtype, SafetensorsFile, SafetensorsWriter, TensorPlan};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

pub(super) fn base(model: &str) -> BaseModel {
    BaseModel::open_folder(&fixtures().join("models").join(model)).unwrap()
}

pub(super) fn load(base: &BaseModel, case: &str) -> Adapter {
    Adapter::load(&fixtures().join("cases").join(case), base, 0).unwrap()
}

/// Writes the checkpoint of `<model>/<case>` in the dtype of the base's tensors.
fn written(case: &str, folder: &Path) -> (BaseModel, Adapter, CheckpointSummary) {
    let base = base(case.split_once('/').unwrap().0);
    let adapter = load(&base, case);
    let summary = write_checkpoint(
        &base,
        Some(&adapter),
        CheckpointForm::default(),
        &base.folder,
        folder,
    )
    .unwrap();
    (base, adapter, summary)
}

/// Opens what was written, and checks that it has exactly the tensors that its `config.json` asks
/// for.
fn reopened(folder: &Path) -> BaseModel {
    let model = BaseModel::open_folder(folder).unwrap();
    let parameters = Parameters::of_base(&model.spec, &model.store).unwrap();
    let tied = usize::from(model.spec.tied());
    assert_eq!(
        model.store.names().count() + tied,
        parameters.iter().count()
    );
    model
}

fn values(model: &BaseModel, name: &str) -> Vec<f32> {
    model.store.get(name).unwrap().to_f32().unwrap()
}

pub(super) fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

/// A fresh adapter: the configuration of `case` with `edits`, without tensors.
fn fresh(base: &BaseModel, case: &str, edits: Value, folder: &Path) -> Adapter {
    let text = fs::read(
        fixtures()
            .join("cases")
            .join(case)
            .join("adapter_config.json"),
    )
    .unwrap();
    let mut config: Value = serde_json::from_slice(&text).unwrap();
    config["inference_mode"] = false.into();
    for (key, value) in edits.as_object().unwrap() {
        config[key] = value.clone();
    }
    fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    Adapter::load(folder, base, 0).unwrap()
}

/// A copy of `llama-tied` with an unused tensor, and with the value `large` in its last norm.
fn edited_base(folder: &Path, large: f32) -> BaseModel {
    let original = base("llama-tied");
    let extra = "model.layers.0.self_attn.rotary_emb.inv_freq";
    let mut tensors: BTreeMap<&str, (Vec<usize>, Vec<f32>)> = BTreeMap::new();
    for name in original.store.names() {
        let tensor = original.store.get(name).unwrap();
        tensors.insert(name, (tensor.shape.to_vec(), tensor.to_f32().unwrap()));
    }
    tensors.insert(extra, (vec![2], vec![1.0, 0.5]));
    tensors.get_mut("model.norm.weight").unwrap().1[7] = large;
    let plans: Vec<TensorPlan> = tensors
        .iter()
        .map(|(name, (shape, _))| TensorPlan {
            name: (*name).to_owned(),
            dtype: Dtype::Float32,
            shape: shape.clone(),
        })
        .collect();
    let writer = SafetensorsWriter::create(&folder.join("model.safetensors"), &plans).unwrap();
    for (name, (_, values)) in &tensors {
        writer.write(name, values).unwrap();
    }
    writer.finish().unwrap();
    fs::copy(original.config.path(), folder.join("config.json")).unwrap();
    BaseModel::open_folder(folder).unwrap()
}

pub(super) fn in_dtype(dtype: Option<Dtype>) -> CheckpointForm {
    CheckpointForm {
        dtype,
        ..CheckpointForm::default()
    }
}

/// Checks every tensor of a checkpoint against the parameters that an export would use.
fn assert_same_as_overlay(case: &str, dtype: Option<Dtype>) {
    let folder = TempDir::new().unwrap();
    let target = folder.path().join("merged");
    let base = base(case.split_once('/').unwrap().0);
    let adapter = load(&base, case);
    write_checkpoint(
        &base,
        Some(&adapter),
        in_dtype(dtype),
        &base.folder,
        &target,
    )
    .unwrap();
    let model = reopened(&target);

    let stored = base.tensor("model.norm.weight").unwrap().dtype().unwrap();
    let dtype = dtype.unwrap_or(stored);
    let overlay = merge(
        &base,
        &adapter,
        Precision::new(dtype, false),
        Shared::default(),
        folder.path(),
    )
    .unwrap();
    for (name, parameter) in overlay.iter() {
        let Parameter::Stored(location) = parameter else {
            panic!("{name} is an input");
        };
        if model.spec.tied() && name == "lm_head.weight" {
            continue;
        }
        let tensor = model.store.get(name).unwrap();
        assert_eq!(tensor.dtype().unwrap(), dtype, "{name}");
        assert_eq!(tensor.shape, location.shape, "{name}");
        let range = location.offset as usize..(location.offset + location.length) as usize;
        let bytes = &fs::read(&location.path).unwrap()[range];
        if location.dtype == dtype {
            assert_eq!(tensor.bytes, bytes, "{name}");
        } else {
            let widened = crate::weights::widen(bytes, location.dtype);
            assert_eq!(tensor.to_f32().unwrap(), widened, "{name}");
        }
    }
}

#[test]
fn every_tensor_equals_the_one_that_an_export_uses() {
    for case in [
        "llama-linear/lora-all-linear",
        "llama-rope3/dora-rslora",
        "llama-bias/lora-own-bias",
        "llama-bias/lora-replication",
        "llama-tied/lora-head",
        "llama-tied/lora-tie-embed",
        "llama-gqa/lora-save-lm-head",
    ] {
        assert_same_as_overlay(case, None);
        assert_same_as_overlay(case, Some(Dtype::Float32));
    }
}

#[test]
fn without_an_adapter_the_base_is_copied_with_its_tokenizer_and_configuration() {
    let folder = TempDir::new().unwrap();
    let target = folder.path().join("new/copy");
    let base = base("llama-gqa");
    let summary = write_checkpoint(
        &base,
        None,
        CheckpointForm::default(),
        &base.folder,
        &target,
    )
    .unwrap();
    assert_eq!((summary.shards, summary.merged), (1, 0));
    let model = reopened(&target);
    for name in base.store.names() {
        assert_eq!(
            base.store.get(name).unwrap().bytes,
            model.store.get(name).unwrap().bytes
        );
    }
    // Beside keys that older releases of Transformers read.
    let (copied, own) = (model.config.json(), base.config.json());
    let mut keys = own.as_object().unwrap().iter();
    assert!(keys.all(|(key, value)| copied[key] == *value), "{copied}");
    assert_eq!(copied["rope_theta"], own["rope_parameters"]["rope_theta"]);
    let files =
        "config.json model.safetensors peft-bench.json tokenizer.json tokenizer_config.json";
    assert_eq!(names_in(&target).join(" "), files);
    let copied = fs::read(target.join("tokenizer.json")).unwrap();
    assert_eq!(
        copied,
        fs::read(base.folder.join("tokenizer.json")).unwrap()
    );
}

#[test]
fn a_tied_head_is_written_only_if_it_differs_from_the_embedding() {
    for (case, tied) in [
        ("llama-tied/lora", true),
        ("llama-tied/lora-tokens", true),
        ("llama-tied/lora-tie-embed", true),
        ("llama-tied/lora-tie-save-embed", true),
        ("opt-pre/lora-tie-embed", true),
        ("phi-tied/lora", true),
        ("llama-tied/lora-embed", false),
        ("phi-tied/lora-ends", false),
        ("llama-tied/lora-head", false),
        ("llama-tied/lora-save-embed", false),
        ("llama-tied/lora-embed-head", false),
        ("llama-tied/lora-tie-alpha", false),
        ("llama-tied/lora-tokens-ends", true),
        ("llama-tied/lora-tokens-apart", false),
        ("opt-pre/lora-save-lm-head", false),
    ] {
        let folder = TempDir::new().unwrap();
        let (_, _, summary) = written(case, &folder.path().join("merged"));
        let model = reopened(&summary.folder);
        assert_eq!(summary.tied, tied, "{case}");
        assert_eq!(model.config.json()["tie_word_embeddings"], tied, "{case}");
        assert_eq!(model.store.contains("lm_head.weight"), !tied, "{case}");
        if !tied {
            let embedding = format!("{}.weight", model.spec.embed_tokens.path);
            assert_ne!(
                values(&model, "lm_head.weight"),
                values(&model, &embedding),
                "{case}"
            );
        }
    }
}

#[test]
fn replicated_layers_are_written_out_and_counted() {
    let folder = TempDir::new().unwrap();
    let (base, adapter, summary) = written("llama-gqa/lora-replication", &folder.path().join("m"));
    let model = reopened(&summary.folder);
    let layers = adapter.spec.layers.len();
    assert!(layers > base.spec.layers.len());
    assert_eq!(model.config.json()["num_hidden_layers"], layers);
    for layer in &adapter.spec.layers {
        for norm in layer.arrangement.norms() {
            let source = values(&base, &format!("{}.weight", norm.source));
            assert_eq!(values(&model, &format!("{}.weight", norm.path)), source);
        }
    }
}

#[test]
fn shards_respect_the_limit_and_the_index_names_every_tensor() {
    let folder = TempDir::new().unwrap();
    let target = folder.path().join("merged");
    let base = base("llama-gqa");
    let adapter = load(&base, "llama-gqa/lora");
    let limit = 60_000;
    let summary = write_sharded(
        &base,
        Some(&adapter),
        CheckpointForm::default(),
        &base.folder,
        &target,
        limit,
    )
    .unwrap();
    assert!(summary.shards > 2);
    let model = reopened(&target);
    let mut bytes = 0;
    for file in model.store.files() {
        let file = SafetensorsFile::open(file).unwrap();
        let names = file.names();
        let size: usize = names
            .iter()
            .map(|name| file.get(name).unwrap().bytes.len())
            .sum();
        assert!(size as u64 <= limit);
        bytes += size;
    }
    let text = fs::read(target.join("model.safetensors.index.json")).unwrap();
    let index: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(index["metadata"]["total_size"], bytes);
    assert_eq!(
        index["weight_map"].as_object().unwrap().len(),
        summary.tensors
    );
    let first = format!("model-00001-of-{:05}.safetensors", summary.shards);
    assert_eq!(index["weight_map"]["model.embed_tokens.weight"], first);

    let whole = folder.path().join("whole");
    write_checkpoint(
        &base,
        Some(&adapter),
        CheckpointForm::default(),
        &base.folder,
        &whole,
    )
    .unwrap();
    let whole = reopened(&whole);
    for name in whole.store.names() {
        assert_eq!(values(&whole, name), values(&model, name), "{name}");
    }
}

#[test]
fn an_added_bias_sets_its_configuration_key_and_gives_the_other_layers_zero_biases() {
    let folder = TempDir::new().unwrap();
    let base = base("llama-gqa");
    // With `init_lora_weights: false` a fresh adapter has a bias other than zero.
    let edits = json!({ "target_modules": ["o_proj"], "init_lora_weights": false });
    let adapter = fresh(&base, "llama-bias/lora-own-bias", edits, folder.path());
    let target = folder.path().join("merged");
    let summary = write_checkpoint(
        &base,
        Some(&adapter),
        CheckpointForm::default(),
        &base.folder,
        &target,
    )
    .unwrap();
    let model = reopened(&target);
    assert_eq!(model.config.json()["attention_bias"], true);
    assert_eq!(model.config.json()["mlp_bias"], false);
    assert_eq!(
        values(&model, "model.layers.1.self_attn.k_proj.bias"),
        [0.0; 32]
    );
    assert!(!model.store.contains("model.layers.1.mlp.up_proj.bias"));
    // A weight and a bias in each of the two layers.
    assert_eq!(summary.merged, 4);
    let overlay = merge(
        &base,
        &adapter,
        Precision::new(Dtype::Float32, false),
        Shared::default(),
        folder.path(),
    )
    .unwrap();
    let name = "model.layers.1.self_attn.o_proj.bias";
    let Some(Parameter::Stored(location)) = overlay.get(name) else {
        panic!("the overlay has no {name}");
    };
    let file = SafetensorsFile::open(&location.path).unwrap();
    let merged = file.get(name).unwrap().to_f32().unwrap();
    assert!(merged.iter().any(|&value| value != 0.0));
    assert_eq!(values(&model, name), merged);
}

#[test]
fn a_bias_that_transformers_cannot_hold_is_refused() {
    let folder = TempDir::new().unwrap();
    let base = base("llama-gqa");
    let edits = json!({ "target_modules": ["lm_head"] });
    let adapter = fresh(&base, "llama-bias/lora-own-bias", edits, folder.path());
    let target = folder.path().join("merged");
    let error = write_checkpoint(
        &base,
        Some(&adapter),
        CheckpointForm::default(),
        &base.folder,
        &target,
    )
    .unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("`lora_bias`") && message.contains("`lm_head`"),
        "{message}"
    );
    assert_eq!(names_in(folder.path()), ["adapter_config.json"]);
}

#[test]
fn virtual_tokens_cannot_be_merged() {
    let folder = TempDir::new().unwrap();
    let base = base("llama-gqa");
    let adapter = load(&base, "llama-gqa/prompt-tuning");
    let target = folder.path().join("merged");
    let error = write_checkpoint(
        &base,
        Some(&adapter),
        CheckpointForm::default(),
        &base.folder,
        &target,
    )
    .unwrap_err();
    assert!(
        matches!(error, PrepareError::NotMergeable { .. }),
        "{error}"
    );
    assert!(names_in(folder.path()).is_empty());
}

#[test]
fn another_programs_folder_stays_and_an_earlier_checkpoint_is_replaced() {
    let folder = TempDir::new().unwrap();
    let target = folder.path().join("merged");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("notes"), "mine").unwrap();
    let base = base("llama-tied");
    let error = write_checkpoint(
        &base,
        None,
        CheckpointForm::default(),
        &base.folder,
        &target,
    )
    .unwrap_err();
    assert!(matches!(error, PrepareError::Occupied { .. }), "{error}");
    assert_eq!(names_in(&target), ["notes"]);

    fs::remove_dir_all(&target).unwrap();
    write_checkpoint(
        &base,
        None,
        CheckpointForm::default(),
        &base.folder,
        &target,
    )
    .unwrap();
    let adapter = load(&base, "llama-tied/lora-embed");
    write_checkpoint(
        &base,
        Some(&adapter),
        CheckpointForm::default(),
        &base.folder,
        &target,
    )
    .unwrap();
    assert!(!reopened(&target).spec.tied());
    assert_eq!(names_in(folder.path()), ["merged"]);
    let marker: Value =
        serde_json::from_slice(&fs::read(target.join("peft-bench.json")).unwrap()).unwrap();
    assert_eq!(marker["experiment"], "lora--lora-embed");
    assert_eq!(marker["model_id"], base.id.to_string());
}

#[test]
fn a_checkpoint_does_not_replace_its_own_base() {
    let folder = TempDir::new().unwrap();
    let target = folder.path().join("merged");
    write_checkpoint(
        &base("llama-tied"),
        None,
        CheckpointForm::default(),
        &base("llama-tied").folder,
        &target,
    )
    .unwrap();
    let own = BaseModel::open_folder(&target).unwrap();
    let adapter = load(&own, "llama-tied/lora");
    let before = fs::read(target.join("model.safetensors")).unwrap();
    assert!(
        write_checkpoint(
            &own,
            Some(&adapter),
            CheckpointForm::default(),
            &own.folder,
            &target
        )
        .is_err()
    );
    assert_eq!(fs::read(target.join("model.safetensors")).unwrap(), before);
}

#[test]
fn unused_tensors_are_dropped_and_short_names_are_completed() {
    let folder = TempDir::new().unwrap();
    let original = folder.path().join("base");
    fs::create_dir(&original).unwrap();
    let target = folder.path().join("copy");
    let edited = edited_base(&original, 1.0);
    let summary = write_checkpoint(
        &edited,
        None,
        CheckpointForm::default(),
        &edited.folder,
        &target,
    )
    .unwrap();
    assert_eq!(
        summary.dropped,
        ["model.layers.0.self_attn.rotary_emb.inv_freq"]
    );
    reopened(&target);

    let target = folder.path().join("opt");
    let summary = write_checkpoint(
        &base("opt-bare"),
        None,
        CheckpointForm::default(),
        &base("opt-bare").folder,
        &target,
    )
    .unwrap();
    assert!(summary.dropped.is_empty());
    assert!(
        reopened(&target)
            .store
            .contains("model.decoder.embed_tokens.weight")
    );
}

#[test]
fn a_value_that_overflows_names_its_file_and_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let original = folder.path().join("base");
    fs::create_dir(&original).unwrap();
    let edited = edited_base(&original, 1e9);
    let target = folder.path().join("merged");
    let error = write_checkpoint(
        &edited,
        None,
        in_dtype(Some(Dtype::Float16)),
        &edited.folder,
        &target,
    )
    .unwrap_err();
    let message = error.to_string();
    assert!(message.contains("`model.norm.weight`"), "{message}");
    let file = target
        .canonicalize()
        .unwrap_or(target)
        .join("model.safetensors");
    assert!(message.contains(&file.display().to_string()), "{message}");
    assert_eq!(names_in(folder.path()), ["base"]);
}
