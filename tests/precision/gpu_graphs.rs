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
use peft_bench::quantize::{Accuracy, Format, Part, Quantization};
use peft_bench::runtime::install::locate_or_install;
use peft_bench::verify::{follow, trace};
use peft_bench::weights::{Dtype, SafetensorsFile, round_to};

use crate::common::{case, copy_folder, files_below, model, names, read_json, set_key};

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

/// What may come of that, of rounding a block's scale, and NF4's values, to float16 as well.
const QUANTIZED: f32 = 0.02;

/// How a graph is made.
#[derive(Debug, Clone, Copy)]
struct Make {
    dtype: Dtype,
    quantization: Option<Quantization>,
    adapter_form: AdapterForm,
}

impl Make {
    const fn plain(dtype: Dtype) -> Self {
        Self {
            dtype,
            quantization: None,
            adapter_form: AdapterForm::Reduced,
        }
    }

    /// Everything in few bits. On the CPU products are computed in float32 of the values that codes stand for, not of rounded
    /// inputs.
    fn quantized(dtype: Dtype, weights: Format, embedding: Format) -> Self {
        let part = |format| Some(Part::Quantized(format));
        let accuracy = (weights != Format::Nf4).then_some(Accuracy::Float32);
        let made = Quantization::with(weights, part(weights), part(embedding), accuracy);
        Self {
            quantization: Some(made.unwrap()),
            ..Self::plain(dtype)
        }
    }

    fn native(self) -> Self {
        Self {
            adapter_form: AdapterForm::Native,
            ..self
        }
    }
}

fn prepare(
    base: &BaseModel,
    experiment: &Path,
    (make, gpu): (Make, bool),
    export_dir: &Path,
) -> Result<PreparedVariant, String> {
    let preparation = Preparation {
        base,
        precision: Precision::new(make.dtype, gpu).with_quantization(make.quantization),
        export_dir,
        seed: 0,
        adapter_form: make.adapter_form,
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
fn pair(base: &Path, folder: &Path, make: Make, export_dir: &Path) -> Option<[PreparedVariant; 2]> {
    let base = BaseModel::open_folder(base).unwrap();
    let prepare = |gpu| prepare(&base, folder, (make, gpu), export_dir);
    match (prepare(false), prepare(true)) {
        (Ok(cpu), Ok(gpu)) => {
            assert_eq!(cpu.manifest.compute, Dtype::Float32);
            assert_eq!(gpu.manifest.compute, make.dtype);
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
    make: Make,
    /// The case's own without one.
    prompt: Option<&'a [u32]>,
    /// The prompt gives the first of them.
    tokens: usize,
    batches: &'a [usize],
}

/// One prompt and a few steps.
const IN_16_BITS: Comparison = Comparison {
    make: Make::plain(Dtype::Float16),
    prompt: None,
    tokens: 4,
    batches: &[1],
};

const IN_FLOAT32: Comparison = Comparison {
    make: Make::plain(Dtype::Float32),
    prompt: None,
    tokens: 6,
    batches: &[1, 2],
};

impl Comparison<'_> {
    /// How far the graph for a GPU is off, as a part of the largest logit.
    fn difference(&self, model_name: &str, case_name: &str) -> f32 {
        let export_dir = tempfile::tempdir().unwrap();
        let folder = case(model_name, case_name);
        let made = pair(&model(model_name), &folder, self.make, export_dir.path());
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
            Make::plain(Dtype::Float32),
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

#[test]
fn what_methods_compute_themselves_is_computed_in_16_bits() {
    let comparison = Comparison {
        make: IN_16_BITS.make.native(),
        ..IN_16_BITS
    };
    let cases = ["c3a", "dora", "hira", "hra", "lokr", "oft", "road"];
    let off = off(cases.map(str::to_owned).to_vec(), ROUNDING, |name| {
        comparison.difference("llama-gqa", name)
    });
    assert!(off.is_empty(), "{off:#?}");
}

/// Stored the other way; of widths that no block divides, tied; experts; and methods with weights in the place of quantized ones,
/// with residuals, with values of what codes stand for, and on the embedding.
const QUANTIZED_CASES: [(&str, &str); 9] = [
    ("gpt2", "lora"),
    ("llama-tied", "lora"),
    ("mixtral", "lora"),
    ("opt-pre", "lora"),
    ("llama-gqa", "c3a"),
    ("llama-gqa", "dora"),
    ("llama-gqa", "dora-embed"),
    ("llama-gqa", "lora-pissa"),
    ("llama-gqa", "lora-tokens"),
];

/// What dequantizes weights in the graph.
const DEQUANTIZING: [(&str, &str); 3] = [
    ("llama-gqa", "dora"),
    ("llama-gqa", "hira"),
    ("llama-gqa", "hra"),
];

fn quantized_weights_are_as_on_the_cpu(comparison: &Comparison, tolerance: f32) {
    let formats = [
        (Format::Int4, Format::Int4),
        (Format::Int8, Format::Int8),
        (Format::Nf4, Format::Int8),
    ];
    let mut failures = Vec::new();
    for (weights, embedding) in formats {
        let make = Make::quantized(comparison.make.dtype, weights, embedding);
        let reduced = QUANTIZED_CASES.map(|case| (make, case));
        let native = DEQUANTIZING.map(|case| (make.native(), case));
        for (make, (model_name, case_name)) in reduced.into_iter().chain(native) {
            let found = Comparison {
                make,
                ..*comparison
            }
            .difference(model_name, case_name);
            if found.is_nan() || found > tolerance {
                failures.push(format!("{model_name}/{case_name}, {make:?}: {found}"));
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn quantized_weights_compute_in_16_bits() {
    quantized_weights_are_as_on_the_cpu(&IN_16_BITS, QUANTIZED);
}

#[test]
fn quantized_weights_compute_in_float32() {
    quantized_weights_are_as_on_the_cpu(&IN_FLOAT32, ORDER);
}

#[test]
fn a_gpu_has_the_codes_of_the_cpu_and_its_own_scales() {
    let base = BaseModel::open_folder(&model("llama-tied")).unwrap();
    let experiment = case("llama-tied", "lora");
    for format in [Format::Int4, Format::Int8, Format::Nf4] {
        let export_dir = tempfile::tempdir().unwrap();
        for gpu in [false, true] {
            let make = Make::quantized(Dtype::Float16, format, Format::Int8);
            prepare(&base, &experiment, (make, gpu), export_dir.path()).unwrap();
        }
        let mut files = files_below(export_dir.path());
        files.retain(|path| path.ends_with("quantized.safetensors"));
        files.sort_by_key(|path| !path.to_string_lossy().contains("-as-float32"));
        let [cpu, gpu] = files.try_into().expect("each has a file");
        let [cpu, gpu] = [cpu, gpu].map(|path| SafetensorsFile::open(&path).unwrap());
        assert_eq!(cpu.names(), gpu.names());
        for name in cpu.names() {
            let [on_cpu, on_gpu] = [&cpu, &gpu].map(|file| file.get(&name).unwrap());
            if name.ends_with(".codes") {
                assert_eq!(on_cpu.bytes, on_gpu.bytes, "{name}");
                continue;
            }
            assert_eq!(on_cpu.dtype().unwrap(), Dtype::Float32, "{name}");
            assert_eq!(on_gpu.dtype().unwrap(), Dtype::Float16, "{name}");
            let scales = on_cpu.to_f32().unwrap();
            let rounded = scales.iter().map(|&value| round_to(value, Dtype::Float16));
            assert_eq!(on_gpu.to_f32().unwrap(), rounded.collect::<Vec<_>>());
        }
    }
}
