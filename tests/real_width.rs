//! The layers of the synthetic shapes at their real widths: one of each kind, the base and a LoRA
//! adapter, merged and unmerged. Vocabularies and the numbers of experts are cut.
//!
//! ```sh
//! cargo test --release --test real_width -- --nocapture             # shapes with small layers
//! cargo test --release --test real_width -- --ignored --nocapture   # all: up to 4 GiB each, for half an hour
//! ```

#![expect(clippy::unwrap_used, reason = "a test may unwrap")]
#![expect(clippy::print_stdout, reason = "the table is what it's run for")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use peft_bench::adapter::AdapterForm;
use peft_bench::arch::{DecoderSpec, ModuleKind, last_name};
use peft_bench::engine::{DecoderEngine, EngineOptions, OnnxRuntime, Provider, WeightsMode};
use peft_bench::experiment::Experiment;
use peft_bench::model::BaseModel;
use peft_bench::model::synthetic::{AlteredShape, shapes};
use peft_bench::onnxruntime::install::locate_or_install;
use peft_bench::parity::{follow, trace};
use peft_bench::prepare::Preparation;
use peft_bench::prepared::{Precision, PreparedVariant, Variant};
use peft_bench::weights::Dtype;
use serde_json::{Value, json};

/// Tokens of a prompt, and new ones.
const PROMPT: usize = 24;
const NEW_TOKENS: usize = 4;

/// Tokens in the vocabulary.
const VOCABULARY: usize = 512;

/// Shapes whose cut has at most so many parameters are always run.
const SMALL: usize = 24 << 20;

/// The largest difference between merged and unmerged logits, relative to the largest logit.
const ALLOWED: f32 = 1e-4;

/// The least effect of the adapter.
const EFFECT: f32 = 1e-3;

/// PEFT refuses adapters on these modules.
const REFUSED: [(&str, &str); 3] = [
    ("falcon_h1", "out_proj"),
    ("nemotron_h", "out_proj"),
    ("mamba2", "out_proj"),
];

#[test]
fn small_layers_run_at_their_real_width() {
    run_all(|parameters| parameters <= SMALL, 14);
}

#[test]
#[ignore = "takes half an hour, and up to 4 GiB of memory and disk space"]
fn every_shapes_layers_run_at_their_real_width() {
    run_all(|_| true, shapes().count());
}

/// Runs the shapes for whose cut's number of parameters `meant` is true; at least `least` of them.
fn run_all(meant: impl Fn(usize) -> bool, least: usize) {
    let runtime = OnnxRuntime::load(&locate_or_install(false, &|_| {}).unwrap()).unwrap();
    println!("| shape | layers | experts | parameters | seconds | largest difference |");
    println!("| --- | --- | --- | --- | --- | --- |");
    let (mut faults, mut count) = (Vec::new(), 0);
    for shape in shapes() {
        let cut = Cut::of(shape.name);
        let parameters = size(cut.altered.spec());
        if !meant(parameters) {
            continue;
        }
        count += 1;
        let start = Instant::now();
        match cut.difference(&runtime) {
            Ok(difference) => {
                let Cut {
                    layers,
                    of,
                    experts,
                    ..
                } = cut;
                let seconds = start.elapsed().as_secs_f32();
                let millions = parameters as f64 / 1e6;
                println!(
                    "| `{}` | {layers} of {of} | {experts} | {millions:.0} M | {seconds:.1} | {difference:.0e} |",
                    shape.name
                );
            }
            Err(fault) => faults.push(format!("{}: {fault}", shape.name)),
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(count >= least, "{count}");
}

fn size(spec: &DecoderSpec) -> usize {
    let modules = spec.modules().into_iter();
    let shapes = modules.flat_map(|module| module.parameters());
    shapes
        .map(|(_, shape)| shape.iter().product::<usize>())
        .sum()
}

/// A shape cut to one layer of each kind.
struct Cut {
    altered: AlteredShape,
    layers: usize,
    of: usize,
    /// How many experts are left, in words.
    experts: String,
}

impl Cut {
    fn of(shape: &str) -> Self {
        let narrow = |config: &mut Value| {
            cut_rows_and_experts(config);
        };
        let whole = AlteredShape::new(shape, narrow).unwrap();
        let kinds = kinds(whole.spec());
        let mut kept: Vec<usize> = Vec::new();
        for (index, kind) in kinds.iter().enumerate() {
            if !kept.iter().any(|&earlier| kinds[earlier] == *kind) {
                kept.push(index);
            }
        }
        let mut experts = String::new();
        let altered = AlteredShape::new(shape, |config| {
            experts = cut_rows_and_experts(config);
            keep_layers(config, whole.spec(), &kept);
        });
        let altered = altered.unwrap_or_else(|error| panic!("{shape}: {error}"));
        let found: BTreeSet<String> = self::kinds(altered.spec()).into_iter().collect();
        let wanted: BTreeSet<String> = kinds.iter().cloned().collect();
        assert_eq!(found.len(), wanted.len(), "{shape}: {kept:?}");
        assert!(found == wanted, "{shape}: other layers than {kept:?}");
        Self {
            altered,
            layers: kept.len(),
            of: kinds.len(),
            experts,
        }
    }

    /// How far merged and unmerged logits are apart; or what's wrong.
    fn difference(&self, runtime: &OnnxRuntime) -> Result<f32, String> {
        let root = tempfile::tempdir().unwrap();
        let [base, experiment] = ["base", "experiment"].map(|name| root.path().join(name));
        std::fs::create_dir(&base).unwrap();
        std::fs::create_dir(&experiment).unwrap();
        self.altered.write(safetensors::Dtype::F32, &base).unwrap();
        let config = json!({
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8,
            "target_modules": targets(self.altered.spec()), "init_lora_weights": false,
        });
        let path = experiment.join("adapter_config.json");
        std::fs::write(path, config.to_string()).unwrap();
        let prepared = prepare(&base, &experiment, &root.path().join("exported"))?;
        let vocabulary = VOCABULARY as u32;
        let prompt: Vec<u32> = (0..PROMPT as u32)
            .map(|i| (i * 37 + 11) % vocabulary)
            .collect();
        let open = |variant: usize| {
            let options = EngineOptions {
                provider: Provider::Cpu,
                threads: 1,
                weights: WeightsMode::InPlace,
                batch_size: 1,
                max_length: PROMPT + NEW_TOKENS + 1,
                logits_on_host: true,
                cuda_graph: false,
                profile: None,
                gpu_layers: None,
            };
            DecoderEngine::open(runtime, &prepared[variant], &options).map_err(|e| e.to_string())
        };
        let [base, unmerged, merged] = [0, 1, 2];
        let expected =
            trace(&mut open(unmerged)?, &prompt, NEW_TOKENS).map_err(|e| e.to_string())?;
        let follow = |variant: usize| {
            let logits = follow(&mut open(variant)?, &prompt, &expected.tokens);
            logits.map_err(|e| e.to_string())
        };
        let [base, merged] = [follow(base)?, follow(merged)?];
        let all = [&expected.logits, &base, &merged];
        if !all
            .into_iter()
            .flatten()
            .flatten()
            .all(|logit| logit.is_finite())
        {
            return Err("logits aren't finite".to_owned());
        }
        let effect = expected.difference(&base);
        if effect < EFFECT {
            return Err(format!("the adapter changes logits by {effect:e} only"));
        }
        let difference = expected.difference(&merged);
        match difference <= ALLOWED {
            true => Ok(difference),
            false => Err(format!("merged and unmerged are {difference:e} apart")),
        }
    }
}

fn prepare(base: &Path, experiment: &Path, exports: &Path) -> Result<Vec<PreparedVariant>, String> {
    let base = BaseModel::open_folder(base).map_err(|error| error.to_string())?;
    let preparation = Preparation {
        base: &base,
        precision: Precision::new(Dtype::Float32, false),
        export_dir: exports,
        seed: 0,
        adapter_form: AdapterForm::Reduced,
        task_id: None,
    };
    let experiment = Experiment::find(experiment).map_err(|error| error.to_string())?;
    let variants = [Variant::Base, Variant::Unmerged, Variant::Merged];
    let prepared = preparation.prepare(Some(&experiment), &variants);
    prepared.map_err(|error| error.to_string())
}

/// Names of the linear layers that get a LoRA: all that PEFT adapts, but those in and around
/// experts, whose names PEFT takes for the experts'.
fn targets(spec: &DecoderSpec) -> BTreeSet<String> {
    let around_experts = |path: &str| {
        let blocks = [".mlp.", "feed_forward", "block_sparse_moe", "shared"];
        spec.has_experts() && blocks.iter().any(|block| path.contains(block))
    };
    let mut found = BTreeSet::new();
    for module in spec.modules() {
        let name = last_name(&module.path);
        let is_linear = matches!(module.kind, ModuleKind::Linear { .. });
        let refused = REFUSED.contains(&(spec.model_type.as_str(), name));
        if is_linear
            && module.path != spec.lm_head.path
            && !refused
            && !around_experts(&module.path)
        {
            found.insert(name.to_owned());
        }
    }
    found
}

/// Each layer's description, without its number.
fn kinds(spec: &DecoderSpec) -> Vec<String> {
    let describe = |index: usize| {
        let layer = &spec.layers[index];
        let streams = spec.streams.as_ref().map(|streams| &streams.layers[index]);
        let inputs = spec.per_layer.as_ref().map(|own| &own.layers[index]);
        let mut text = format!("{layer:?} {streams:?} {inputs:?}");
        let mut parts = layer.path.rsplit('.');
        let (number, list) = (parts.next().unwrap(), parts.next().unwrap());
        text = text.replace(&format!("{list}.{number}"), list);
        let attention = layer.attention.as_ref();
        if let Some(other) = attention.and_then(|attention| attention.keys_of_layer()) {
            text = text.replace(&format!("layer: {other}"), "layer: another");
        }
        text
    };
    (0..spec.layers.len()).map(describe).collect()
}

/// Cuts the vocabulary, and leaves one expert more than a token picks. Returns what's left of them.
fn cut_rows_and_experts(config: &mut Value) -> String {
    for key in ["vocab_size", "vocab_size_per_layer_input"] {
        if config.get(key).is_some() {
            config[key] = json!(VOCABULARY);
        }
    }
    let picked = ["num_experts_per_tok", "moe_k", "moe_topk", "top_k_experts"];
    let picked = picked.iter().find_map(|key| config[*key].as_u64());
    let counts = [
        "num_local_experts",
        "num_experts",
        "n_routed_experts",
        "moe_num_experts",
    ];
    for key in counts {
        if let (Some(count), Some(picked)) = (config[key].as_u64(), picked)
            && count > picked + 1
        {
            config[key] = json!(picked + 1);
            return format!("{} of {count}", picked + 1);
        }
    }
    String::new()
}

/// Keeps the layers `kept` of the model `whole`.
fn keep_layers(config: &mut Value, whole: &DecoderSpec, kept: &[usize]) {
    let total = whole.layers.len();
    let keys: Vec<String> = config.as_object().unwrap().keys().cloned().collect();
    for key in keys {
        let value = &mut config[&key];
        match key.as_str() {
            "num_hidden_layers" | "n_layer" | "n_layers" | "num_layers" => {
                *value = json!(kept.len())
            }
            "full_attn_idxs" | "attn_layer_indices" | "mlp_only_layers" => {
                let listed: Vec<usize> = serde_json::from_value(value.clone()).unwrap();
                let places = kept.iter().enumerate();
                let places = places.filter(|(_, layer)| listed.contains(layer));
                *value = places.map(|(place, _)| place).collect();
            }
            "hybrid_override_pattern" => {
                let letters: Vec<char> = value.as_str().unwrap().chars().collect();
                *value = kept
                    .iter()
                    .map(|&layer| letters[layer])
                    .collect::<String>()
                    .into();
            }
            _ => {
                if let Some(list) = value.as_array().filter(|list| list.len() == total) {
                    *value = kept.iter().map(|&layer| list[layer].clone()).collect();
                }
            }
        }
    }
    let layers = || kept.iter().map(|&layer| &whole.layers[layer]);
    let attentions = || layers().map(|layer| layer.attention.as_ref());
    let is_dense = |layer: &&peft_bench::arch::Layer| layer.mlp.mixture().is_none();
    for key in ["first_k_dense_replace", "num_dense_layers"] {
        if config.get(key).is_some() {
            config[key] = json!(layers().filter(is_dense).count());
        }
    }
    if config.get("num_kv_shared_layers").is_some() {
        let shared = attentions()
            .flatten()
            .filter(|own| own.keys_of_layer().is_some());
        config["num_kv_shared_layers"] = json!(shared.count());
    }
    let has_list = config["layer_types"].is_array();
    let kinds: Vec<&str> = layers()
        .map(|layer| match (&layer.recurrence, &layer.attention) {
            (Some(_), None) => "linear_attention",
            (_, Some(attention)) if attention.window.is_some() => "sliding_attention",
            _ => "full_attention",
        })
        .collect();
    let differ = kinds.iter().any(|kind| *kind != kinds[0]);
    match whole.model_type.as_str() {
        "gpt_neo" => {
            let kinds: Vec<&str> = attentions()
                .map(|own| {
                    if own.unwrap().window.is_some() {
                        "local"
                    } else {
                        "global"
                    }
                })
                .collect();
            config["attention_types"] = json!([[kinds, 1]]);
        }
        "smollm3" | "llama4_text" => {
            let rotates = |own: &peft_bench::arch::Attention| {
                matches!(own.position, peft_bench::arch::Position::Rotary(_))
            };
            let rotate = attentions().map(|own| usize::from(own.is_some_and(rotates)));
            config["no_rope_layers"] = rotate.collect();
        }
        "lfm2" | "lfm2_moe" | "bamba" | "nemotron_h" | "granitemoehybrid" => {}
        _ if differ && !has_list => config["layer_types"] = json!(kinds),
        _ => {}
    }
}
