//! Graphs as a GPU is given them, run on the CPU: every family, and every method on one of them, against the same weights in the
//! graph that a CPU is given. In 16 bits ONNX Runtime computes in float32 there what it has no float16 for; in float32
//! attention is made of other operators.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use peft_bench::adapter::AdapterForm;
use peft_bench::engine::{DecoderEngine, EngineOptions, OnnxRuntime, Provider, WeightsMode};
use peft_bench::experiment::Experiment;
use peft_bench::model::BaseModel;
use peft_bench::prepare::{Precision, Preparation, PreparedVariant, Variant};
use peft_bench::runtime::install::locate_or_install;
use peft_bench::verify::{follow, trace};
use peft_bench::weights::Dtype;

use crate::common::{case, copy_folder, model, names, read_json, set_key};

/// A process loads ONNX Runtime once.
static RUNTIME: LazyLock<OnnxRuntime> =
    LazyLock::new(|| OnnxRuntime::load(&locate_or_install(false, &|_| {}).unwrap()).unwrap());

/// What may come of rounding to float16 after every node, as a part of the largest logit.
const ROUNDING: f32 = 0.015;

/// What may come of sums in another order.
const ORDER: f32 = 1e-4;

/// Longer than the window of any fixture.
const PROMPT_LENGTH: usize = 18;

const MAX_LENGTH: usize = 61;

fn prepare(
    base: &BaseModel,
    experiment: &Path,
    precision: Precision,
    export_dir: &Path,
) -> Result<PreparedVariant, String> {
    let preparation = Preparation {
        base,
        precision,
        export_dir,
        seed: 0,
        adapter_form: AdapterForm::Reduced,
        task_id: None,
    };
    let experiment = Experiment::find(experiment).map_err(|error| error.to_string())?;
    let mut prepared = preparation
        .prepare(Some(&experiment), &[Variant::Unmerged])
        .map_err(|error| error.to_string())?;
    Ok(prepared.remove(0))
}

/// The adapter in `folder` beside `base`, as a CPU and as a GPU is given it; `None` where both refuse it for the same
/// reason.
fn pair(
    base: &Path,
    folder: &Path,
    dtype: Dtype,
    export_dir: &Path,
) -> Option<[PreparedVariant; 2]> {
    let base = BaseModel::open_folder(base).unwrap();
    let prepare = |gpu| prepare(&base, folder, Precision::new(dtype, gpu), export_dir);
    match (prepare(false), prepare(true)) {
        (Ok(cpu), Ok(gpu)) => {
            assert_eq!(cpu.manifest.compute, Dtype::Float32);
            assert_eq!(gpu.manifest.compute, dtype);
            assert_ne!(cpu.folder, gpu.folder);
            Some([cpu, gpu])
        }
        (Err(cpu), Err(gpu)) => {
            assert_eq!(cpu, gpu);
            None
        }
        (cpu, gpu) => panic!("{}: {cpu:?} and {gpu:?}", folder.display()),
    }
}

fn open(variant: &PreparedVariant, batch_size: usize, max_length: usize) -> DecoderEngine {
    let options = EngineOptions {
        provider: Provider::Cpu,
        threads: 1,
        weights: WeightsMode::InPlace,
        batch_size,
        max_length,
        logits_on_host: true,
        cuda_graph: false,
        profile: None,
    };
    DecoderEngine::open(&RUNTIME, variant, &options)
        .unwrap_or_else(|error| panic!("{}: {error}", variant.folder.display()))
}

/// What is compared.
struct Comparison<'a> {
    dtype: Dtype,
    /// The case's own without one.
    prompt: Option<&'a [u32]>,
    /// The prompt gives the first of them.
    tokens: usize,
    batches: &'a [usize],
}

/// One prompt and a few steps.
const IN_16_BITS: Comparison = Comparison {
    dtype: Dtype::Float16,
    prompt: None,
    tokens: 4,
    batches: &[1],
};

const IN_FLOAT32: Comparison = Comparison {
    dtype: Dtype::Float32,
    prompt: None,
    tokens: 6,
    batches: &[1, 2],
};

impl Comparison<'_> {
    /// How far the graph for a GPU is off, as a part of the largest logit.
    fn difference(&self, model_name: &str, case_name: &str) -> f32 {
        let export_dir = tempfile::tempdir().unwrap();
        let folder = case(model_name, case_name);
        let made = pair(&model(model_name), &folder, self.dtype, export_dir.path());
        let Some([cpu, gpu]) = made else {
            return 0.0;
        };
        let own = || {
            let json = read_json(&folder.join("case.json"));
            serde_json::from_value(json["prompt_ids"].clone()).unwrap()
        };
        let prompt: Vec<u32> = self.prompt.map_or_else(own, <[u32]>::to_vec);
        // Of one sequence: behind a prefix, the graph for a CPU takes no more.
        let expected = trace(&mut open(&cpu, 1, MAX_LENGTH), &prompt, self.tokens).unwrap();
        let differences = self.batches.iter().map(|&batch_size| {
            let mut engine = open(&gpu, batch_size, MAX_LENGTH);
            let found = follow(&mut engine, &prompt, &expected.tokens).unwrap();
            let next = engine.next_tokens();
            assert_eq!(next.len(), batch_size);
            assert!(next.iter().all(|token| token == &next[0]), "{next:?}");
            expected.difference(&found)
        });
        differences.fold(0.0, f32::max)
    }
}

/// Those of `names` that are off by more than `tolerance`.
fn off(
    names: Vec<String>,
    tolerance: f32,
    difference: impl Fn(&str) -> f32,
) -> BTreeMap<String, f32> {
    let differences = names.into_iter().map(|name| {
        let found = difference(&name);
        (name, found)
    });
    differences
        .filter(|(_, found)| *found > tolerance)
        .collect()
}

fn methods() -> Vec<String> {
    let mut cases = names(&case("llama-gqa", ""));
    cases.retain(|name| name != "base");
    cases
}

/// Ids that every fixture has.
fn long_prompt(length: usize) -> Vec<u32> {
    (0..length as u32).map(|i| (i * 37 + 11) % 61).collect()
}

#[test]
fn every_family_computes_in_16_bits() {
    let off = off(names(&model("")), ROUNDING, |name| {
        IN_16_BITS.difference(name, "lora")
    });
    assert!(off.is_empty(), "{off:#?}");
}

#[test]
fn every_method_computes_in_16_bits() {
    let off = off(methods(), ROUNDING, |name| {
        IN_16_BITS.difference("llama-gqa", name)
    });
    assert!(off.is_empty(), "{off:#?}");
}

#[test]
fn every_family_computes_in_float32_beyond_its_window() {
    let comparison = Comparison {
        prompt: Some(&long_prompt(PROMPT_LENGTH)),
        ..IN_FLOAT32
    };
    let off = off(names(&model("")), ORDER, |name| {
        comparison.difference(name, "lora")
    });
    assert!(off.is_empty(), "{off:#?}");
}

#[test]
fn every_method_computes_in_float32() {
    let off = off(methods(), ORDER, |name| {
        IN_FLOAT32.difference("llama-gqa", name)
    });
    assert!(off.is_empty(), "{off:#?}");
}

/// The second chunk stands behind a filled cache.
#[test]
fn a_long_prompt_gives_the_same_in_float32_in_chunks_and_at_once() {
    const LENGTH: usize = 300;
    let folder = tempfile::tempdir().unwrap();
    let prompt = long_prompt(LENGTH);
    for (model_name, name) in [("mistral", "lora"), ("mpt", "lora"), ("llama-gqa", "xlora")] {
        let base = copy_folder(&model(model_name), &folder.path().join(model_name));
        let key = if model_name == "mpt" {
            "max_seq_len"
        } else {
            "max_position_embeddings"
        };
        set_key(&base.join("config.json"), key, 512.into());
        let [cpu, gpu] = pair(
            &base,
            &case(model_name, name),
            Dtype::Float32,
            folder.path(),
        )
        .unwrap();
        let expected = trace(&mut open(&cpu, 1, LENGTH + 8), &prompt, 4).unwrap();
        for batch_size in [1, 2] {
            let mut engine = open(&gpu, batch_size, LENGTH + 8);
            let found = follow(&mut engine, &prompt, &expected.tokens).unwrap();
            let difference = expected.difference(&found);
            assert!(
                difference < ORDER,
                "{model_name}, batch of {batch_size}: {difference}"
            );
        }
    }
}
