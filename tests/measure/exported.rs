//! Folders that other programs exported. `tests/fixtures/make_foreign.sh` made those of the fixtures.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use peft_bench::engine::{EngineOptions, OnnxRuntime, Provider, Runner, WeightsMode};
use peft_bench::foreign;
use peft_bench::graph::proto::{DimensionValue, Model, ValueInfo};
use peft_bench::onnxruntime::install::locate_or_install;
use peft_bench::parity::trace;
use peft_bench::prepared::{CacheUse, GraphFacts, LogitsOf};
use prost::Message;
use serde_json::json;

use crate::common::reference::Case;
use crate::common::*;
use crate::workplace::Workplace;

/// ONNX Runtime, which a process can load only once.
static RUNTIME: LazyLock<OnnxRuntime> =
    LazyLock::new(|| OnnxRuntime::load(&locate_or_install(false, &|_| {}).unwrap()).unwrap());

fn exported(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/foreign")
        .join(name)
}

fn open(folder: &Path, batch_size: usize) -> Runner {
    let options = EngineOptions {
        provider: Provider::Cpu,
        threads: 1,
        weights: WeightsMode::Mapped,
        batch_size,
        max_length: 384,
        logits_on_host: true,
        gpu_layers: None,
        cuda_graph: false,
        profile: None,
    };
    Runner::open(&RUNTIME, &foreign::read(folder).unwrap(), &options).unwrap()
}

fn facts(name: &str) -> GraphFacts {
    let read = foreign::read(&exported(name)).unwrap();
    read.manifest.foreign.unwrap().facts
}

#[test]
fn every_layout_gives_the_tokens_and_logits_of_the_reference() {
    for (name, batch_size) in [
        ("llama-gqa--builder-float32", 1),
        ("llama-gqa--builder-float32", 2),
        ("llama-gqa--optimum", 1),
        ("llama-gqa--optimum", 2),
        ("llama-gqa--transformers", 1),
        ("llama-gqa--transformers-fused", 1),
        ("gemma2--builder-float32", 1),
        ("bloom--optimum", 1),
    ] {
        let folder = case(name.split("--").next().unwrap(), "base");
        let expected = Case::read(&folder);
        let logits = &read_tensors(&folder.join("expected.safetensors"))["base"].values;
        let mut engine = open(&exported(name), batch_size);
        // The second prompt finds what the first one left.
        for prompt in [&expected.prompt_ids[..5], &expected.prompt_ids] {
            let found = trace(&mut engine, prompt, expected.max_new_tokens).unwrap();
            if prompt.len() == 5 {
                continue;
            }
            assert_eq!(found.tokens, expected.token_ids, "{name}");
            let difference = relative_difference(&found.logits.concat(), logits);
            // The builder rounds two constants of Gemma: `docs/foreign.md` says which.
            let allowed = if name.starts_with("gemma2") {
                1e-2
            } else {
                TOLERANCE
            };
            assert!(difference < allowed, "{name}: {difference:e}");
        }
    }
}

#[test]
fn what_differs_between_graphs_is_read_from_them() {
    let builder = facts("llama-gqa--builder-int4");
    assert!(builder.exporter.starts_with("onnxruntime-genai 0.18"));
    assert_eq!(builder.logits, LogitsOf::AllPositions);
    assert_eq!(
        (builder.cache, builder.quantized_bits),
        (CacheUse::Shared, Some(4))
    );
    assert_eq!(builder.attention.as_deref(), Some("GroupQueryAttention"));
    assert!(builder.attention_mask && !builder.position_ids);

    let optimum = facts("llama-gqa--optimum");
    assert_eq!(
        (optimum.cache, optimum.quantized_bits),
        (CacheUse::Copied, None)
    );
    assert_eq!((optimum.attention, optimum.sessions), (None, 1));
    assert!(optimum.attention_mask && optimum.position_ids);
    assert!(!facts("bloom--optimum").position_ids);

    let transformers = facts("llama-gqa--transformers");
    assert_eq!(transformers.exporter, "transformers 5.24.0");
    assert_eq!(
        (transformers.cache, transformers.sessions),
        (CacheUse::Copied, 2)
    );
    assert!(!transformers.attention_mask && transformers.position_ids);

    let model = |name: &str| foreign::read(&exported(name)).unwrap().manifest;
    let counted = model("llama-gqa--builder-float32");
    let [float, quantized] = ["builder-float32", "builder-int4"]
        .map(|kind| model(&format!("llama-gqa--{kind}")).reads.weight_bytes);
    assert!(quantized * 3 < float, "{quantized} of {float}");
    assert_eq!(
        (counted.vocab_size, counted.max_position_embeddings),
        (140, 128)
    );
}

#[test]
fn exports_are_measured_in_one_run_beside_the_checkpoint() {
    let place = Workplace::new(2);
    let base = model("llama-gqa");
    let kinds = ["builder-float32", "builder-int4", "optimum", "transformers"];
    let folders = kinds.map(|kind| exported(&format!("llama-gqa--{kind}")));
    let mut targets: Vec<&Path> = folders.iter().map(PathBuf::as_path).collect();
    targets.push(&base);
    let outcome = place.measure_all(&targets, &[]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    for said in [
        "5 targets, 4 run as exported",
        "protocol",
        "all logits, shared cache",
        "all logits, copied cache",
        "run as transformers 5.24.0 exported it",
        "32 of 32 tokens are the same",
    ] {
        assert!(
            outcome.stdout.contains(said),
            "`{said}`: {}",
            outcome.stdout
        );
    }
    for (kind, bound) in kinds.into_iter().zip([1e-4, 0.75, 1e-4, 1e-4]) {
        let result = place.result(&format!("exported--llama-gqa--{kind}"));
        let info = &result["generation_info"];
        let found = &info["variants"]["exported"];
        assert_eq!(found["overhead_pct"]["overall"]["paired"], true, "{kind}");
        assert!(found["graph"]["logits"] == "all_positions" && info["timings_valid"] == true);
        assert!(info["variants"]["base"]["graph"].is_null());
        let parity = &info["parity"];
        let difference = parity["exported"]["difference"].as_f64().unwrap();
        assert!(
            difference > 0.0 && difference < bound,
            "{kind}: {difference}"
        );
        assert_eq!(parity["of"], 32);
        assert_eq!(schema::problems(&result), [] as [String; 0], "{kind}");
    }
    let own = place.result("checkpoint--llama-gqa");
    assert!(own["generation_info"]["variants"]["exported"].is_null());
}

#[test]
fn a_named_checkpoint_is_the_base_and_a_wrong_export_is_found() {
    let place = Workplace::new(1);
    let folder = exported("llama-gqa--optimum");
    let right = model("llama-gqa");
    let outcome = place.measure(&folder, &["--model", right.to_str().unwrap()]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(
        outcome
            .stdout
            .contains("logits differ from those of base by")
    );

    // As if the export had been made with another rotation.
    let wrong = copy_folder(&right, &place.path("wrong"));
    set_key(
        &wrong.join("config.json"),
        "rope_parameters",
        json!({ "rope_type": "default", "rope_theta": 500.0 }),
    );
    let outcome = place.measure(&folder, &["--model", wrong.to_str().unwrap()]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stdout);
    assert!(
        outcome
            .stdout
            .contains("FAILED, so these times are not of the same model")
    );
    assert!(
        outcome.stderr.contains("its logits differ"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn without_a_base_the_first_folder_is_it() {
    let place = Workplace::new(1);
    let folders =
        ["builder-float32", "optimum"].map(|kind| exported(&format!("llama-gqa--{kind}")));
    let outcome = place.measure_all(&[&folders[0], &folders[1]], &[]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let first = place.result("exported--llama-gqa--builder-float32");
    let second = place.result("exported--llama-gqa--optimum");
    let variants = |result: &serde_json::Value| result["generation_info"]["variants"].clone();
    assert_eq!(variants(&first)["base"]["graph"]["cache"], "shared");
    assert_eq!(variants(&second)["base"], variants(&first)["base"]);
    assert_eq!(variants(&second)["exported"]["graph"]["cache"], "copied");
}

/// A copy of an exported folder whose graph was changed.
fn changed(place: &Workplace, name: &str, change: impl FnOnce(&mut Model)) -> PathBuf {
    let folder = copy_folder(&exported(name), &place.path("changed"));
    let path = folder.join("model.onnx");
    let mut graph = Model::decode(fs::read(&path).unwrap().as_slice()).unwrap();
    change(&mut graph);
    fs::write(&path, graph.encode_to_vec()).unwrap();
    folder
}

type Change = Box<dyn FnOnce(&mut Model)>;

fn input<'a>(model: &'a mut Model, name: &str) -> &'a mut ValueInfo {
    let inputs = &mut model.graph.as_mut().unwrap().input;
    inputs.iter_mut().find(|input| input.name == name).unwrap()
}

fn fix(value: &mut ValueInfo, axis: usize, size: i64) {
    let tensor = value.r#type.as_mut().unwrap().tensor_type.as_mut().unwrap();
    tensor.shape.as_mut().unwrap().dim[axis].value = Some(DimensionValue::Value(size));
}

#[test]
fn what_cannot_be_fed_is_refused_by_name() {
    let rename = |from: &'static str, to: &'static str| {
        move |model: &mut Model| input(model, from).name = to.to_owned()
    };
    let cases: [(Change, &[&str]); 6] = [
        (
            Box::new(rename("position_ids", "use_cache_branch")),
            &[
                "its input `use_cache_branch` (int64 [",
                "`--no-post-process`",
            ],
        ),
        (
            Box::new(rename("input_ids", "inputs_embeds")),
            &["`inputs_embeds`", "embeddings that another graph makes"],
        ),
        (
            Box::new(rename(
                "past_key_values.1.key",
                "past_key_values.1.recurrent",
            )),
            &["`past_key_values.1.recurrent`", "a recurrent state"],
        ),
        (
            Box::new(rename("past_key_values.1.key", "past_key_values.2.key")),
            &[
                "`past_key_values.1.value`",
                "the other half of the layer's cache",
            ],
        ),
        (
            Box::new(|model| fix(input(model, "past_key_values.0.key"), 2, 64)),
            &[
                "`past_key_values.0.key` (float32 [batch_size, 2, 64, 16])",
                "of fixed length",
            ],
        ),
        (
            Box::new(|model| {
                let graph = model.graph.as_mut().unwrap();
                graph.input.retain(|input| !input.name.starts_with("past"));
            }),
            &[
                "takes no cache of keys and values",
                "text-generation-with-past",
            ],
        ),
    ];
    for (change, words) in cases {
        let place = Workplace::new(1);
        let folder = changed(&place, "llama-gqa--optimum", change);
        assert_refused(&place.measure(&folder, &[]), words);
    }
}

#[test]
fn a_fixed_length_is_taken_where_the_cache_is_updated_in_place() {
    let place = Workplace::new(1);
    let folder = changed(&place, "llama-gqa--builder-float32", |model| {
        for name in ["0.key", "0.value", "1.key", "1.value"] {
            fix(input(model, &format!("past_key_values.{name}")), 2, 64);
        }
    });
    let manifest = foreign::read(&folder).unwrap().manifest;
    assert_eq!(manifest.max_position_embeddings, 64);
    let graphs = manifest.foreign.unwrap();
    assert!(graphs.cache.iter().all(|one| one.length == Some(64)));
    assert_eq!(graphs.facts.cache, CacheUse::Shared);
}

#[test]
fn a_graph_for_one_sequence_runs_no_batch() {
    let place = Workplace::new(1);
    let folder = exported("llama-gqa--transformers");
    let outcome = place.measure(&folder, &["--batch-size", "2"]);
    assert_refused(&outcome, &["exported for batches of 1", "with 2"]);
}

#[test]
fn a_graph_beside_a_checkpoint_is_measured_when_its_file_is_named() {
    let place = Workplace::new(1);
    let folder = copy_folder(&model("llama-gqa"), &place.path("repository"));
    let graphs = folder.join("onnx");
    copy_folder(&exported("llama-gqa--builder-int4"), &graphs);
    fs::remove_file(graphs.join("genai_config.json")).unwrap();
    let outcome = place.measure(&folder, &[]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    place.result("checkpoint--repository");
    let outcome = place.measure(
        &graphs.join("model.onnx"),
        &["--model", folder.to_str().unwrap()],
    );
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let result = place.result("exported--model.onnx");
    assert_eq!(
        result["generation_info"]["variants"]["exported"]["graph"]["quantized_bits"],
        4
    );
}

#[test]
fn other_commands_send_exports_to_measure() {
    let place = Workplace::new(1);
    let folder = exported("llama-gqa--optimum");
    let folder = folder.to_str().unwrap();
    let prompt = ["--prompt-ids", "1"];
    for (command, more) in [("prepare", &[][..]), ("verify", &[]), ("generate", &prompt)] {
        let arguments = [&[command, folder][..], more].concat();
        let outcome = run(&mut place.command(&arguments));
        assert_refused(&outcome, &["exported already", "peft-bench measure"]);
    }
}
