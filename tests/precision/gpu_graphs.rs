//! Graphs for a GPU, run on the CPU: every family, and every method on one of them, compared with
//! the same weights in the graph for a CPU. In float16, ONNX Runtime computes in float32 what has
//! no float16 kernel on the CPU. Graphs in bfloat16 are run with float32 instead, since there are
//! nearly no bfloat16 kernels. In float32, attention consists of other operators.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use peft_bench::adapter::AdapterForm;
use peft_bench::engine::{
    DecoderEngine, EngineError, EngineOptions, OnnxRuntime, Provider, WeightsMode,
};
use peft_bench::experiment::Experiment;
use peft_bench::model::BaseModel;
use peft_bench::onnxruntime::install::locate_or_install;
use peft_bench::parity::{follow, trace};
use peft_bench::prepare::Preparation;
use peft_bench::prepared::{ADAPTER, Precision, PreparedVariant, QUANTIZED, RESIDUALS, Variant};
use peft_bench::quantize::{Accuracy, Format, FormatChoice, Parts, Quantization};
use peft_bench::weights::Dtype;

use crate::common::{case, copy_folder, model, names, read_json, set_key, trained_adapter};

mod quantized;
mod widened;

use widened::{widen_into, widened};

/// ONNX Runtime is loaded once per process.
static RUNTIME: LazyLock<OnnxRuntime> =
    LazyLock::new(|| OnnxRuntime::load(&locate_or_install(false, &|_| {}).unwrap()).unwrap());

/// Tolerance for rounding to float16 after every node, relative to the largest logit.
const ROUNDING: f32 = 0.015;

/// Tolerance for sums in another order.
const ORDER: f32 = 1e-4;

/// Families that multiply by, or clip to, numbers in their configuration, which a graph in bfloat16
/// rounds.
const HAS_CONSTANTS: [&str; 20] = [
    "cohere",
    "falcon-h1",
    "gemma",
    "gemma2",
    "gemma3n",
    "gemma4",
    "gemma4-experts",
    "gemma4-layers",
    "gpt-oss",
    "granite",
    "granite-hybrid",
    "granitemoe",
    "granitemoeshared",
    "mpt",
    "olmo",
    "olmoe",
    "qwen3-5-hub",
    "wrapper-gemma4",
    "wrapper-llava-next",
    "wrapper-paligemma",
];

/// Tolerance for that.
const CONSTANTS: f32 = 0.01;

/// Longer than any fixture's window.
const PROMPT_LENGTH: usize = 18;

const MAX_LENGTH: usize = 61;

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

    /// Everything quantized. On the CPU, products are computed in float32 from the dequantized
    /// weights, without rounding the inputs.
    fn quantized(dtype: Dtype, weights: Format, embedding: Format) -> Self {
        let part = |format| Some(FormatChoice::Quantized(format));
        let accuracy = (weights != Format::Nf4).then_some(Accuracy::Float32);
        let parts = Parts {
            head: part(weights),
            kv_proj: Some(weights),
            embedding: part(embedding),
            accuracy,
        };
        let made = Quantization::with(weights, parts);
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

/// The adapter in `folder` on `base`, prepared for a CPU and for a GPU; `None` if both refuse it
/// for the same reason.
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
    open_with(variant, batch_size, max_length, None)
        .unwrap_or_else(|error| panic!("{}: {error}", variant.folder.display()))
}

fn open_with(
    variant: &PreparedVariant,
    batch_size: usize,
    max_length: usize,
    gpu_layers: Option<usize>,
) -> Result<DecoderEngine, EngineError> {
    let options = EngineOptions {
        provider: Provider::Cpu,
        threads: 1,
        weights: WeightsMode::InPlace,
        batch_size,
        max_length,
        logits_on_host: true,
        gpu_layers,
        cuda_graph: false,
        profile: None,
    };
    DecoderEngine::open(&RUNTIME, variant, &options)
}

/// The graph for a GPU widened to float32, and the graph for a CPU with the same rounded adapter
/// tensors and scales.
fn as_wide([cpu, gpu]: [PreparedVariant; 2], export_dir: &Path) -> [PreparedVariant; 2] {
    let wide = widened(&gpu, &export_dir.join("widened"));
    for file in [ADAPTER, RESIDUALS, &format!("../../{QUANTIZED}")] {
        let [on_cpu, on_gpu] = [&cpu, &gpu].map(|variant| variant.folder.join(file));
        if on_gpu.is_file() {
            widen_into(&on_gpu, &on_cpu);
        }
    }
    [cpu, wide]
}

/// What is compared.
struct Comparison<'a> {
    make: Make,
    /// The case's own prompt if `None`.
    prompt: Option<&'a [u32]>,
    /// Tokens to generate; the prompt's prefill gives the first.
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

const IN_BFLOAT16: Comparison = Comparison {
    make: Make::plain(Dtype::BFloat16),
    prompt: None,
    tokens: 6,
    batches: &[1],
};

const IN_FLOAT32: Comparison = Comparison {
    make: Make::plain(Dtype::Float32),
    prompt: None,
    tokens: 6,
    batches: &[1, 2],
};

impl Comparison<'_> {
    /// The deviation of the graph for a GPU, relative to the largest logit.
    fn difference(&self, model_name: &str, case_name: &str) -> f32 {
        self.difference_of(model_name, &case(model_name, case_name))
    }

    /// The same for the adapter in `folder`.
    fn difference_of(&self, model_name: &str, folder: &Path) -> f32 {
        let export_dir = tempfile::tempdir().unwrap();
        let made = pair(&model(model_name), folder, self.make, export_dir.path());
        let Some([cpu, gpu]) = made else {
            return 0.0;
        };
        let own = || {
            let json = read_json(&folder.join("case.json"));
            serde_json::from_value(json["prompt_ids"].clone()).unwrap()
        };
        let prompt: Vec<u32> = self.prompt.map_or_else(own, <[u32]>::to_vec);
        let [cpu, gpu] = match self.make.dtype {
            Dtype::BFloat16 => as_wide([cpu, gpu], export_dir.path()),
            _ => [cpu, gpu],
        };
        // One sequence only: with a prefix, the graph for a CPU accepts no more.
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

/// Checks that no name in `names` deviates by more than `tolerance`.
#[track_caller]
fn assert_within(names: Vec<String>, tolerance: f32, difference: impl Fn(&str) -> f32) {
    let differences = names.into_iter().map(|name| {
        let found = difference(&name);
        (name, found)
    });
    let off: BTreeMap<String, f32> = differences
        .filter(|(_, found)| *found > tolerance)
        .collect();
    assert!(off.is_empty(), "{off:#?}");
}

fn methods() -> Vec<String> {
    let mut cases = names(&case("llama-gqa", ""));
    cases.retain(|name| name != "base");
    cases
}

/// Token ids that every fixture has.
fn long_prompt(length: usize) -> Vec<u32> {
    (0..length as u32).map(|i| (i * 37 + 11) % 61).collect()
}

#[test]
fn every_family_computes_in_16_bits() {
    assert_within(names(&model("")), ROUNDING, |name| {
        IN_16_BITS.difference_of(name, &trained_adapter(name))
    });
}

#[test]
fn every_method_computes_in_16_bits() {
    assert_within(methods(), ROUNDING, |name| {
        IN_16_BITS.difference("llama-gqa", name)
    });
}

#[test]
fn every_family_computes_in_bfloat16() {
    let (constants, others) = names(&model(""))
        .into_iter()
        .partition(|name| HAS_CONSTANTS.contains(&name.as_str()));
    for (names, tolerance) in [(constants, CONSTANTS), (others, ORDER)] {
        assert_within(names, tolerance, |name| {
            IN_BFLOAT16.difference_of(name, &trained_adapter(name))
        });
    }
}

#[test]
fn every_method_computes_in_bfloat16() {
    assert_within(methods(), ORDER, |name| {
        IN_BFLOAT16.difference("llama-gqa", name)
    });
}

#[test]
fn every_family_computes_in_float32_beyond_its_window() {
    let comparison = Comparison {
        prompt: Some(&long_prompt(PROMPT_LENGTH)),
        ..IN_FLOAT32
    };
    assert_within(names(&model("")), ORDER, |name| {
        comparison.difference_of(name, &trained_adapter(name))
    });
}

#[test]
fn every_method_computes_in_float32() {
    assert_within(methods(), ORDER, |name| {
        IN_FLOAT32.difference("llama-gqa", name)
    });
}

/// ONNX Runtime takes the annotations and the option that reads them, and computes the same: keys
/// that layers share, states, experts and a prefix too.
#[test]
fn layers_that_are_annotated_for_the_cpu_compute_the_same() {
    let cases = [
        ("llama-gqa", "lora"),
        ("llama-gqa", "prefix-tuning"),
        ("llama-gqa", "xlora"),
        ("gpt2", "lora"),
        ("mpt", "lora"),
        ("gemma3n", "lora"),
        ("falcon-h1", "lora"),
        ("olmoe", "lora"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let prompt = long_prompt(PROMPT_LENGTH);
    for (model_name, name) in cases {
        for dtype in [Dtype::Float16, Dtype::Float32] {
            let (base, experiment) = (model(model_name), case(model_name, name));
            let make = Make::plain(dtype);
            let [_, gpu] = pair(&base, &experiment, make, folder.path()).unwrap();
            let expected = trace(&mut open(&gpu, 1, MAX_LENGTH), &prompt, 4).unwrap();
            for layers in [0, 1] {
                let mut engine = open_with(&gpu, 1, MAX_LENGTH, Some(layers)).unwrap();
                let found = follow(&mut engine, &prompt, &expected.tokens).unwrap();
                let difference = expected.difference(&found);
                // Sums in float32 are rounded less often.
                let tolerance = match dtype {
                    Dtype::Float16 => ROUNDING,
                    _ => ORDER,
                };
                assert!(
                    difference < tolerance,
                    "{model_name}/{name} in {dtype}, {layers} layers: {difference}"
                );
            }
        }
    }
    let base = model("llama-gqa");
    let make = Make::plain(Dtype::BFloat16);
    let [_, gpu] = pair(&base, &case("llama-gqa", "lora"), make, folder.path()).unwrap();
    let refused = open_with(&gpu, 1, MAX_LENGTH, Some(1)).unwrap_err();
    assert!(refused.to_string().contains("--dtype float16"), "{refused}");
}

/// The second chunk is processed with a filled cache.
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
fn native_forms_compute_in_16_bits() {
    let cases = ["dora", "hira", "hra", "lokr", "oft", "road"].as_slice();
    // C3A divides by the size of its blocks.
    let with_constants = ["c3a"].as_slice();
    for (comparison, cases, tolerance) in [
        (IN_16_BITS, cases, ROUNDING),
        (IN_16_BITS, with_constants, ROUNDING),
        (IN_BFLOAT16, cases, ORDER),
        (IN_BFLOAT16, with_constants, CONSTANTS),
    ] {
        let comparison = Comparison {
            make: comparison.make.native(),
            ..comparison
        };
        let names = cases.iter().map(ToString::to_string).collect();
        assert_within(names, tolerance, |name| {
            comparison.difference("llama-gqa", name)
        });
    }
}
