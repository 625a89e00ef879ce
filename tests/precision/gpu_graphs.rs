//! Graphs that compute in 16 bits, as a GPU is given them, run on the CPU: ONNX Runtime computes in float32 there what it has no
//! float16 for. Every family, and every method on one of them, against the same weights in a graph that computes in float32.

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

use crate::common::{case, files_below, model, names, read_json};

/// A process loads ONNX Runtime once.
static RUNTIME: LazyLock<OnnxRuntime> =
    LazyLock::new(|| OnnxRuntime::load(&locate_or_install(false, &|_| {}).unwrap()).unwrap());

/// What may come of rounding to float16 after every node, as a part of the largest logit.
const TOLERANCE: f32 = 0.015;

/// What may come of that, of rounding a block's scale, and NF4's values, to float16 as well.
const QUANTIZED_TOLERANCE: f32 = 0.02;

/// How a graph is made.
#[derive(Debug, Clone, Copy)]
struct Make {
    quantization: Option<Quantization>,
    adapter_form: AdapterForm,
}

const PLAIN: Make = Make {
    quantization: None,
    adapter_form: AdapterForm::Reduced,
};

/// Everything in few bits. On the CPU products are computed in float32 of the values that codes stand for, not of rounded inputs.
fn quantized(weights: Format, embedding: Format) -> Make {
    let part = |format| Some(Part::Quantized(format));
    let accuracy = (weights != Format::Nf4).then_some(Accuracy::Float32);
    let made = Quantization::with(weights, part(weights), part(embedding), accuracy);
    Make {
        quantization: Some(made.unwrap()),
        ..PLAIN
    }
}

fn prepare(
    base: &BaseModel,
    experiment: &Path,
    make: Make,
    gpu: bool,
    export_dir: &Path,
) -> Result<PreparedVariant, String> {
    let preparation = Preparation {
        base,
        precision: Precision::new(Dtype::Float16, gpu).with_quantization(make.quantization),
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

fn open(variant: &PreparedVariant) -> DecoderEngine {
    let options = EngineOptions {
        provider: Provider::Cpu,
        threads: 1,
        weights: WeightsMode::InPlace,
        batch_size: 1,
        max_length: 64,
        logits_on_host: true,
        profile: None,
    };
    DecoderEngine::open(&RUNTIME, variant, &options)
        .unwrap_or_else(|error| panic!("{}: {error}", variant.folder.display()))
}

/// How far the graph in float16 is off, as a part of the largest logit.
fn difference(model_name: &str, case_name: &str, make: Make) -> f32 {
    let export_dir = tempfile::tempdir().unwrap();
    let base = BaseModel::open_folder(&model(model_name)).unwrap();
    let folder = case(model_name, case_name);
    let prepare = |gpu| prepare(&base, &folder, make, gpu, export_dir.path());
    let (wide, narrow) = match (prepare(false), prepare(true)) {
        (Ok(wide), Ok(narrow)) => (wide, narrow),
        // What's refused is refused on a GPU too.
        (Err(wide), Err(narrow)) => {
            assert_eq!(wide, narrow);
            return 0.0;
        }
        (wide, narrow) => panic!("{model_name}/{case_name}: {wide:?} and {narrow:?}"),
    };
    assert_eq!(narrow.manifest.compute, Dtype::Float16);
    let json = read_json(&folder.join("case.json"));
    let prompt: Vec<u32> = serde_json::from_value(json["prompt_ids"].clone()).unwrap();
    let expected = trace(&mut open(&wide), &prompt, 4).unwrap();
    let found = follow(&mut open(&narrow), &prompt, &expected.tokens).unwrap();
    expected.difference(&found)
}

#[test]
fn every_family_computes_in_16_bits() {
    let mut failures = Vec::new();
    for model_name in names(&model("")) {
        let found = difference(&model_name, "lora", PLAIN);
        if found.is_nan() || found > TOLERANCE {
            failures.push(format!("{model_name}: {found}"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn every_method_computes_in_16_bits() {
    let mut failures = Vec::new();
    for case_name in names(&case("llama-gqa", "")) {
        if case_name == "base" {
            continue;
        }
        let found = difference("llama-gqa", &case_name, PLAIN);
        if found.is_nan() || found > TOLERANCE {
            failures.push(format!("{case_name}: {found}"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn what_methods_compute_themselves_is_computed_in_16_bits() {
    let native = Make {
        adapter_form: AdapterForm::Native,
        ..PLAIN
    };
    let mut failures = Vec::new();
    for case_name in ["c3a", "dora", "hira", "hra", "lokr", "oft", "road"] {
        let found = difference("llama-gqa", case_name, native);
        if found.is_nan() || found > TOLERANCE {
            failures.push(format!("{case_name}: {found}"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn quantized_weights_compute_in_16_bits() {
    let formats = [
        (Format::Int4, Format::Int4),
        (Format::Int8, Format::Int8),
        (Format::Nf4, Format::Int8),
    ];
    let mut failures = Vec::new();
    // Stored the other way; of widths that no block divides, tied; experts; and methods with weights in the place of quantized
    // ones, with residuals, with values of what codes stand for, and on the embedding.
    let models = ["gpt2", "llama-tied", "mixtral", "opt-pre"];
    let cases = ["c3a", "dora", "dora-embed", "lora-pissa", "lora-tokens"];
    for (weights, embedding) in formats {
        let make = quantized(weights, embedding);
        let of_models = models.map(|name| (name, "lora"));
        let of_cases = cases.map(|name| ("llama-gqa", name));
        for (model_name, case_name) in of_models.into_iter().chain(of_cases) {
            let found = difference(model_name, case_name, make);
            if found.is_nan() || found > QUANTIZED_TOLERANCE {
                failures.push(format!("{model_name}/{case_name}, {weights:?}: {found}"));
            }
        }
        // What dequantizes weights in the graph.
        let native = Make {
            adapter_form: AdapterForm::Native,
            ..make
        };
        for case_name in ["dora", "hira", "hra"] {
            let found = difference("llama-gqa", case_name, native);
            if found.is_nan() || found > QUANTIZED_TOLERANCE {
                failures.push(format!("{case_name}, natively, {weights:?}: {found}"));
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn a_gpu_has_the_codes_of_the_cpu_and_its_own_scales() {
    let base = BaseModel::open_folder(&model("llama-tied")).unwrap();
    let experiment = case("llama-tied", "lora");
    for format in [Format::Int4, Format::Int8, Format::Nf4] {
        let export_dir = tempfile::tempdir().unwrap();
        for gpu in [false, true] {
            let make = quantized(format, Format::Int8);
            prepare(&base, &experiment, make, gpu, export_dir.path()).unwrap();
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
