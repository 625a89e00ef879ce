//! Graphs that compute in 16 bits, as a GPU is given them, run on the CPU: ONNX Runtime computes in float32 there what it has no
//! float16 for. Every family, and every method on one of them, against the same weights in a graph that computes in float32.

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

use crate::common::{case, model, names, read_json};

/// A process loads ONNX Runtime once.
static RUNTIME: LazyLock<OnnxRuntime> =
    LazyLock::new(|| OnnxRuntime::load(&locate_or_install(false, &|_| {}).unwrap()).unwrap());

/// What may come of rounding to float16 after every node, as a part of the largest logit.
const TOLERANCE: f32 = 0.015;

fn prepare(
    base: &BaseModel,
    experiment: &Path,
    gpu: bool,
    export_dir: &Path,
) -> Result<PreparedVariant, String> {
    let preparation = Preparation {
        base,
        precision: Precision::new(Dtype::Float16, gpu),
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

fn open(variant: &PreparedVariant) -> DecoderEngine {
    let options = EngineOptions {
        provider: Provider::Cpu,
        threads: 1,
        weights: WeightsMode::InPlace,
        batch_size: 1,
        max_length: 64,
        logits_on_host: true,
        cuda_graph: false,
        profile: None,
    };
    DecoderEngine::open(&RUNTIME, variant, &options)
        .unwrap_or_else(|error| panic!("{}: {error}", variant.folder.display()))
}

/// How far the graph in float16 is off, as a part of the largest logit.
fn difference(model_name: &str, case_name: &str) -> f32 {
    let export_dir = tempfile::tempdir().unwrap();
    let base = BaseModel::open_folder(&model(model_name)).unwrap();
    let folder = case(model_name, case_name);
    let prepare = |gpu| prepare(&base, &folder, gpu, export_dir.path());
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
        let found = difference(&model_name, "lora");
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
        let found = difference("llama-gqa", &case_name);
        if found.is_nan() || found > TOLERANCE {
            failures.push(format!("{case_name}: {found}"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}
