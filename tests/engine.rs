//! Tests of the engine through the library: batches, chunks and adapter swaps.

#![expect(clippy::unwrap_used, reason = "a test may unwrap")]

mod common;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::LazyLock;

use common::reference::Case;
use common::{case, copy_folder, edit_tensors, make_fresh, model, names, set_key, trained_adapter};
use peft_bench::adapter::AdapterForm;
use peft_bench::arch::LatentCache;
use peft_bench::engine::{
    DecoderEngine, Engine, EngineOptions, OnnxRuntime, Provider, WeightsMode,
};
use peft_bench::experiment::Experiment;
use peft_bench::lowering::block_size;
use peft_bench::model::BaseModel;
use peft_bench::onnxruntime::install::locate_or_install;
use peft_bench::parity::{follow, trace};
use peft_bench::prepare::{Preparation, other_adapters};
use peft_bench::prepared::{Precision, PreparedVariant, Variant};
use peft_bench::weights::Dtype;

const PROMPT: [u32; 6] = [3, 1, 4, 1, 5, 9];

/// ONNX Runtime, which a process can load only once.
static RUNTIME: LazyLock<OnnxRuntime> =
    LazyLock::new(|| OnnxRuntime::load(&locate_or_install(false, &|_| {}).unwrap()).unwrap());

fn prepare(model_name: &str, experiment: &Path, export_dir: &Path) -> PreparedVariant {
    prepare_on(&model(model_name), experiment, export_dir)
}

fn prepare_on(base: &Path, experiment: &Path, export_dir: &Path) -> PreparedVariant {
    let base = BaseModel::open_folder(base).unwrap();
    prepare_model(&base, experiment, export_dir)
}

fn prepare_model(base: &BaseModel, experiment: &Path, export_dir: &Path) -> PreparedVariant {
    let precision = Precision::new(Dtype::Float32, false);
    let preparation = Preparation {
        base,
        precision: precision.with_latent_cache(base.spec.latent_cache()),
        export_dir,
        seed: 0,
        adapter_form: AdapterForm::Reduced,
        task_id: None,
    };
    let experiment = Experiment::find(experiment).unwrap();
    let mut prepared = preparation
        .prepare(Some(&experiment), &[Variant::Unmerged])
        .unwrap();
    prepared.remove(0)
}

fn options() -> EngineOptions {
    EngineOptions {
        provider: Provider::Cpu,
        threads: 1,
        weights: WeightsMode::Mapped,
        batch_size: 1,
        max_length: 40,
        logits_on_host: true,
        gpu_layers: None,
        cuda_graph: false,
        profile: None,
    }
}

fn open(variant: &PreparedVariant, batch_size: usize) -> DecoderEngine {
    let options = EngineOptions {
        batch_size,
        ..options()
    };
    DecoderEngine::open(&RUNTIME, variant, &options).unwrap()
}

/// If they differed, laid-out weights would never be used.
#[cfg(target_arch = "x86_64")]
#[test]
fn the_block_size_derived_from_the_processor_is_onnx_runtimes() {
    assert_eq!(
        peft_bench::engine::block_size(&RUNTIME),
        block_size::of_this_processor()
    );
}

#[test]
fn every_sequence_of_a_batch_is_computed_as_one_alone() {
    let folder = tempfile::tempdir().unwrap();
    for (model_name, name) in [
        ("llama-gqa", "lora"),
        ("llama-gqa", "prompt-tuning"),
        ("llama-gqa", "adaption-prompt"),
        ("llama-bias", "lora"),
        ("opt-post", "lora-embed"),
        ("llama-tied", "lora-tokens"),
        ("llama-gqa", "lily"),
        ("llama-gqa", "lora-alora"),
        ("llama-gqa", "lora-arrow"),
        ("llama-bias", "shadow-narrow"),
        ("llama-bias", "xlora-layerwise"),
    ] {
        let variant = prepare(model_name, &case(model_name, name), folder.path());
        let alone = trace(&mut open(&variant, 1), &PROMPT, 5).unwrap();
        let mut batch = open(&variant, 3);
        let together = follow(&mut batch, &PROMPT, &alone.tokens).unwrap();
        let difference = alone.difference(&together);
        assert!(difference < 1e-5, "{model_name}/{name}: {difference}");
        assert_eq!(batch.next_tokens().len(), 3);
        let first = batch.next_tokens()[0];
        assert!(
            batch.next_tokens().iter().all(|&token| token == first),
            "{model_name}/{name}"
        );
    }
}

/// Prompts go beyond the fixtures' windows and the spans of their convolutions.
#[test]
fn every_family_computes_a_batch_as_one_sequence_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut faults = Vec::new();
    for model_name in names(&model("")) {
        let adapter = trained_adapter(&model_name);
        let variant = prepare(&model_name, &adapter, folder.path());
        let prompt = Case::read(&adapter).prompt_ids;
        let alone = trace(&mut open(&variant, 1), &prompt, 5).unwrap();
        let mut batch = open(&variant, 3);
        let together = follow(&mut batch, &prompt, &alone.tokens).unwrap();
        let difference = alone.difference(&together);
        let tokens = batch.next_tokens();
        let same = tokens.len() == 3 && tokens.iter().all(|token| *token == tokens[0]);
        if difference.is_nan() || difference > 1e-5 || !same {
            faults.push(format!("{model_name}: {difference:e}, {tokens:?}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_batch_over_a_compressed_cache_is_computed_as_one_over_an_expanded_one() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["deepseek-v2", "deepseek-v3"] {
        let mut base = BaseModel::open_folder(&model(name)).unwrap();
        let adapter = case(name, "lora");
        let expanded = prepare_model(&base, &adapter, folder.path());
        assert!(base.spec.set_latent_cache(LatentCache::Compressed));
        let compressed = prepare_model(&base, &adapter, folder.path());
        assert_ne!(expanded.folder, compressed.folder);
        let alone = trace(&mut open(&expanded, 1), &PROMPT, 9).unwrap();
        for size in [1, 3] {
            let mut batch = open(&compressed, size);
            let together = follow(&mut batch, &PROMPT, &alone.tokens).unwrap();
            let difference = alone.difference(&together);
            assert!(difference < 1e-5, "{name}: {difference}");
            assert_eq!(batch.next_tokens().len(), size);
        }
    }
}

/// A prompt of one sequence is run in chunks, unless the computation depends on the whole prompt.
/// Prompts of several sequences never are.
#[test]
fn a_long_prompt_gives_the_same_in_chunks_and_at_once() {
    const LENGTH: usize = 300;
    let folder = tempfile::tempdir().unwrap();
    let base = copy_folder(&model("llama-gqa"), &folder.path().join("base"));
    set_key(
        &base.join("config.json"),
        "max_position_embeddings",
        512.into(),
    );
    let mut prompt: Vec<u32> = (0..LENGTH as u32).map(|i| (i * 37 + 11) % 101).collect();
    // The last invocation is in the second chunk, so the one in the first chunk must be ignored
    // there already.
    for start in [20, 280] {
        prompt[start..start + 2].copy_from_slice(&[9, 31]);
    }
    for name in ["lora-alora", "lora-arrow", "lily", "shadow", "xlora"] {
        let variant = prepare_on(&base, &case("llama-gqa", name), folder.path());
        let open = |batch_size, weights| {
            let options = EngineOptions {
                batch_size,
                weights,
                max_length: LENGTH + 8,
                ..options()
            };
            DecoderEngine::open(&RUNTIME, &variant, &options).unwrap()
        };
        let expected = trace(&mut open(2, WeightsMode::InPlace), &prompt, 4).unwrap();
        for weights in [
            WeightsMode::Mapped,
            WeightsMode::InPlace,
            WeightsMode::Resident,
        ] {
            let logits = follow(&mut open(1, weights), &prompt, &expected.tokens).unwrap();
            let difference = expected.difference(&logits);
            assert!(difference < 1e-4, "{name}, {weights:?}: {difference}");
        }
    }
}

/// Steps of prompts are limited, those of single tokens aren't: a chunk of one token would be wrong.
#[test]
fn the_last_token_of_a_prompt_in_chunks_is_part_of_the_prompt() {
    const LENGTH: usize = 257;
    let folder = tempfile::tempdir().unwrap();
    let base = copy_folder(&model("nemotron-h"), &folder.path().join("base"));
    let config = base.join("config.json");
    set_key(&config, "max_position_embeddings", 512.into());
    set_key(&config, "time_step_min", 1.5.into());
    let variant = prepare_on(&base, &case("nemotron-h", "lora"), folder.path());
    let prompt: Vec<u32> = (0..LENGTH as u32).map(|i| (i * 37 + 11) % 61).collect();
    let open = |batch_size| {
        let options = EngineOptions {
            batch_size,
            max_length: LENGTH + 8,
            ..options()
        };
        DecoderEngine::open(&RUNTIME, &variant, &options).unwrap()
    };
    // Prompts of batches aren't run in chunks.
    let expected = trace(&mut open(2), &prompt, 4).unwrap();
    let found = follow(&mut open(1), &prompt, &expected.tokens).unwrap();
    let difference = expected.difference(&found);
    assert!(difference < 1e-5, "{difference}");
}

#[test]
fn each_prompt_decides_from_where_an_adapter_acts() {
    let folder = tempfile::tempdir().unwrap();
    let variant = prepare("llama-gqa", &case("llama-gqa", "lora-alora"), folder.path());
    let mut engine = open(&variant, 1);
    let with = [3, 9, 31, 4, 7, 5];
    let without = [3, 31, 9, 4, 7, 5];
    let first = trace(&mut engine, &with, 4).unwrap();
    let absent = trace(&mut engine, &without, 4).unwrap();
    let again = follow(&mut engine, &with, &first.tokens).unwrap();
    assert_eq!(first.difference(&again), 0.0);
    let alone = follow(&mut open(&variant, 1), &without, &absent.tokens).unwrap();
    assert_eq!(absent.difference(&alone), 0.0);
    assert!(first.difference(&absent.logits) > 1e-2);
}

/// Reduces the adapter to the first `rank` rows of `A` and columns of `B`.
fn narrowed(experiment: &Path, rank: usize, to: &Path) -> PathBuf {
    let to = copy_folder(experiment, to);
    set_key(&to.join("adapter_config.json"), "r", rank.into());
    edit_tensors(&to.join("adapter_model.safetensors"), |tensors| {
        for (name, tensor) in tensors {
            let [rows, columns] = tensor.shape[..] else {
                panic!("`{name}` is no matrix")
            };
            let kept = match name.contains("lora_A") {
                true => [rank, columns],
                false => [rows, rank],
            };
            let row = |r: usize| tensor.values[r * columns..][..kept[1]].to_vec();
            tensor.values = (0..kept[0]).flat_map(row).collect();
            tensor.shape = kept.to_vec();
        }
    });
    to
}

#[test]
fn an_adapter_of_another_rank_replaces_the_first_in_the_same_session() {
    let folder = tempfile::tempdir().unwrap();
    let wide = prepare("llama-gqa", &case("llama-gqa", "lora"), folder.path());
    let narrow = narrowed(&case("llama-gqa", "lora"), 2, &folder.path().join("narrow"));
    let narrow = prepare("llama-gqa", &narrow, folder.path());
    let expected_wide = trace(&mut open(&wide, 1), &PROMPT, 5).unwrap();
    let expected_narrow = trace(&mut open(&narrow, 1), &PROMPT, 5).unwrap();
    assert!(expected_wide.difference(&expected_narrow.logits) > 1e-2);

    let mut engine = open(&wide, 1);
    let [first, second] = [&wide, &narrow].map(|v| Rc::new(engine.load_adapter(v).unwrap()));
    for (adapter, expected) in [
        (&second, &expected_narrow),
        (&first, &expected_wide),
        (&second, &expected_narrow),
    ] {
        engine.swap_adapter(adapter).unwrap();
        let found = follow(&mut engine, &PROMPT, &expected.tokens).unwrap();
        assert!(expected.difference(&found) < 1e-6);
    }
}

#[test]
fn virtual_tokens_of_another_number_are_swapped_too() {
    let folder = tempfile::tempdir().unwrap();
    let long = prepare(
        "llama-gqa",
        &case("llama-gqa", "prompt-tuning"),
        folder.path(),
    );
    let short = folder.path().join("short");
    std::fs::create_dir_all(&short).unwrap();
    let config = "adapter_config.json";
    std::fs::copy(
        case("llama-gqa", "prompt-tuning").join(config),
        short.join(config),
    )
    .unwrap();
    make_fresh(&short);
    set_key(&short.join(config), "num_virtual_tokens", 2.into());
    let short = prepare("llama-gqa", &short, folder.path());

    let expected = trace(&mut open(&short, 1), &PROMPT, 4).unwrap();
    let mut engine = open(&long, 1);
    engine.prefill(&PROMPT).unwrap();
    let adapter = Rc::new(engine.load_adapter(&short).unwrap());
    engine.swap_adapter(&adapter).unwrap();
    let found = follow(&mut engine, &PROMPT, &expected.tokens).unwrap();
    assert!(expected.difference(&found) < 1e-6);
}

#[test]
fn a_prefix_with_a_batch_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = case("llama-bias", "prefix-tuning");
    let variant = prepare("llama-bias", &prefix, folder.path());
    let options = EngineOptions {
        batch_size: 2,
        ..options()
    };
    let error = DecoderEngine::open(&RUNTIME, &variant, &options).unwrap_err();
    assert!(error.to_string().contains("batch of 2"), "{error}");
}

#[test]
fn an_adapter_of_other_modules_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let narrow = prepare("llama-gqa", &case("llama-gqa", "lora"), folder.path());
    let engine = open(&narrow, 1);
    let other = prepare("llama-gqa", &case("llama-gqa", "dora"), folder.path());
    let error = engine.load_adapter(&other).unwrap_err().to_string();
    assert!(error.contains("only one of them has the input"), "{error}");
}

/// A copy of a model with rotary positions and enough positions for long prompts.
fn with_more_positions(model_name: &str, to: &Path) -> PathBuf {
    let to = copy_folder(&model(model_name), to);
    set_key(
        &to.join("config.json"),
        "max_position_embeddings",
        512.into(),
    );
    to
}

#[test]
fn every_way_of_holding_weights_computes_the_same() {
    for (model_name, name) in [
        ("llama-gqa", "lora"),
        ("llama-gqa", "dora"),
        ("llama-gqa", "prompt-tuning"),
        ("llama-gqa", "adaption-prompt"),
        ("llama-rope3", "adaption-prompt"),
        ("llama-tied", "adaption-prompt-last-layer"),
        ("llama-bias", "lora-all-linear"),
        ("llama-bias", "prefix-tuning"),
        ("llama-tied", "lora-tokens"),
        ("llama-rope3", "lora"),
        ("opt-pre", "lora"),
        ("opt-post", "lora-embed"),
        ("opt-nonorm", "lora"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let variant = prepare(model_name, &case(model_name, name), folder.path());
        let mut traces = Vec::new();
        for weights in [
            WeightsMode::InPlace,
            WeightsMode::Mapped,
            WeightsMode::Resident,
        ] {
            let options = EngineOptions {
                weights,
                ..options()
            };
            let mut engine = DecoderEngine::open(&RUNTIME, &variant, &options).unwrap();
            traces.push(trace(&mut engine, &PROMPT, 5).unwrap());
        }
        for other in &traces[1..] {
            let difference = traces[0].difference(&other.logits);
            assert!(difference < 1e-5, "{model_name}/{name}: {difference}");
            assert_eq!(traces[0].tokens, other.tokens);
        }
    }
}

#[test]
fn a_long_prompt_in_chunks_is_computed_as_a_whole_one() {
    let folder = tempfile::tempdir().unwrap();
    let prompt: Vec<u32> = (0..300).map(|i| 3 + i * 7 % 90).collect();
    for name in ["lora", "prompt-tuning", "adaption-prompt"] {
        let model = with_more_positions("llama-gqa", &folder.path().join(name));
        let base = BaseModel::open_folder(&model).unwrap();
        let preparation = Preparation {
            base: &base,
            precision: Precision::new(Dtype::Float32, false),
            export_dir: folder.path(),
            seed: 0,
            adapter_form: AdapterForm::Reduced,
            task_id: None,
        };
        let experiment = Experiment::find(&case("llama-gqa", name)).unwrap();
        let variant = preparation
            .prepare(Some(&experiment), &[Variant::Unmerged])
            .unwrap()
            .remove(0);
        let run = |weights, batch_size| {
            let options = EngineOptions {
                weights,
                batch_size,
                max_length: 320,
                ..options()
            };
            let mut engine = DecoderEngine::open(&RUNTIME, &variant, &options).unwrap();
            trace(&mut engine, &prompt, 4).unwrap()
        };
        // Prompts of batches aren't run in chunks.
        let whole = run(WeightsMode::InPlace, 2);
        for weights in [
            WeightsMode::InPlace,
            WeightsMode::Mapped,
            WeightsMode::Resident,
        ] {
            let difference = whole.difference(&run(weights, 1).logits);
            assert!(difference < 1e-5, "{name}, {weights}: {difference}");
        }
    }
}

#[test]
fn adapters_of_drawn_values_are_others_and_compute_what_a_session_of_their_own_does() {
    for (model, name) in [("llama-gqa", "dora"), ("mixtral", "lora-experts")] {
        let folder = tempfile::tempdir().unwrap();
        let first = prepare(model, &case(model, name), folder.path());
        let others = other_adapters(&first, 2, 7, &folder.path().join("others")).unwrap();
        let mut engine = open(&first, 1);
        let own = trace(&mut open(&first, 1), &PROMPT, 4).unwrap();
        let mut seen: Vec<Vec<Vec<f32>>> = vec![own.logits.clone()];
        for other in &others {
            let graph = other.folder.join("model.onnx");
            let adapter = Rc::new(engine.load_adapter(other).unwrap());
            assert!(!graph.exists(), "a swap needs no graph");
            engine.swap_adapter(&adapter).unwrap();
            let swapped = follow(&mut engine, &PROMPT, &own.tokens).unwrap();
            assert!(swapped.iter().flatten().all(|value| value.is_finite()));
            // The same values, with the first adapter's graph.
            let alone = copy_folder(&first.folder, &first.folder.with_file_name("alone"));
            std::fs::copy(
                other.folder.join("adapter.safetensors"),
                alone.join("adapter.safetensors"),
            )
            .unwrap();
            let alone = PreparedVariant {
                folder: alone,
                ..first.clone()
            };
            let expected = follow(&mut open(&alone, 1), &PROMPT, &own.tokens).unwrap();
            assert_eq!(swapped, expected);
            assert!(!seen.contains(&swapped), "it has other values");
            seen.push(swapped);
        }
    }
}

#[test]
fn the_arena_tells_what_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let variant = prepare("llama-gqa", &case("llama-gqa", "lora"), folder.path());
    let mut engine = open(&variant, 1);
    engine.prefill(&PROMPT).unwrap();
    let found = engine.arena_bytes().unwrap();
    assert!(found.in_use <= found.max_in_use && found.max_in_use <= found.reserved);
    assert!(found.max_in_use > 0);
}
