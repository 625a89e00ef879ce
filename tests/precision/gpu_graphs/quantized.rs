//! Graphs for a GPU with quantized weights.

use peft_bench::model::BaseModel;
use peft_bench::quantize::Format;
use peft_bench::weights::{Dtype, SafetensorsFile, round_to};

use super::{CONSTANTS, Comparison, IN_16_BITS, IN_BFLOAT16, IN_FLOAT32, Make, ORDER, prepare};
use crate::common::{case, files_below, model};

/// Tolerance for rounding to float16 after every node, and for rounding scales and NF4's values to
/// float16.
const ROUNDING_SCALES: f32 = 0.02;

/// Transposed weights; tied weights of widths that aren't multiples of the block size; experts;
/// latent attention; mixers with states; methods that replace quantized weights, that have
/// residuals, that use dequantized values, and on the embedding.
const QUANTIZED_CASES: [(&str, &str); 13] = [
    ("gpt2", "lora"),
    ("llama-tied", "lora"),
    ("mixtral", "lora"),
    ("opt-pre", "lora"),
    ("bamba", "lora"),
    ("deepseek-v3", "lora"),
    ("lfm2-moe", "lora"),
    ("qwen3-5", "lora"),
    ("llama-gqa", "c3a"),
    ("llama-gqa", "dora"),
    ("llama-gqa", "dora-embed"),
    ("llama-gqa", "lora-pissa"),
    ("llama-gqa", "lora-tokens"),
];

/// Cases that dequantize weights in the graph.
const DEQUANTIZING: [(&str, &str); 3] = [
    ("llama-gqa", "dora"),
    ("llama-gqa", "hira"),
    ("llama-gqa", "hra"),
];

fn quantized_weights_are_as_on_the_cpu(comparison: &Comparison, tolerance: impl Fn(Format) -> f32) {
    let formats = [
        (Format::Int4Blocks32, Format::Int4Blocks32),
        (Format::Int8Blocks32, Format::Int8Blocks32),
        (Format::Nf4, Format::Int8Blocks32),
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
            if found.is_nan() || found > tolerance(weights) {
                failures.push(format!("{model_name}/{case_name}, {make:?}: {found}"));
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn quantized_weights_compute_in_16_bits() {
    quantized_weights_are_as_on_the_cpu(&IN_16_BITS, |_| ROUNDING_SCALES);
}

#[test]
fn quantized_weights_compute_in_bfloat16() {
    // If the graph dequantizes, NF4's sixteen values are constants in it.
    quantized_weights_are_as_on_the_cpu(&IN_BFLOAT16, |weights| match weights {
        Format::Nf4 => CONSTANTS,
        _ => ORDER,
    });
}

#[test]
fn quantized_weights_compute_in_float32() {
    quantized_weights_are_as_on_the_cpu(&IN_FLOAT32, |_| ORDER);
}

#[test]
fn cpu_and_gpu_have_the_same_codes_and_different_scales() {
    let base = BaseModel::open_folder(&model("llama-tied")).unwrap();
    let experiment = case("llama-tied", "lora");
    for format in [Format::Int4Blocks32, Format::Int8Blocks32, Format::Nf4] {
        let export_dir = tempfile::tempdir().unwrap();
        for gpu in [false, true] {
            let make = Make::quantized(Dtype::Float16, format, Format::Int8Blocks32);
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
