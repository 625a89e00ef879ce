//! Models and options that are refused with quantization.

use std::fs;

use peft_bench::weights::SafetensorsFile;
use serde_json::json;

use crate::common::*;
use crate::reference::generate;

#[test]
fn a_weight_that_is_not_finite_is_named_and_no_file_remains() {
    let folder = tempfile::tempdir().unwrap();
    let base = copy_folder(&model("llama-gqa"), &folder.path().join("base"));
    let exports = folder.path().join("exports");
    let path = base.join("model.safetensors");
    let file = SafetensorsFile::open(&path).unwrap();
    let weight = file.get("model.layers.1.mlp.up_proj.weight").unwrap();
    let place = weight.span().offset as usize + 4 * 64 * 3;
    let mut bytes = fs::read(&path).unwrap();
    bytes[place..place + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let mut command = generate(&base, &exports, &[3, 4], 2);
    let outcome = run(command.args(["--quantize", "nf4"]));
    assert_eq!(outcome.code, Some(1));
    assert!(
        outcome.stderr.contains("model.layers.1.mlp.up_proj.weight"),
        "{}",
        outcome.stderr
    );
    assert!(outcome.stderr.contains("row 3"), "{}", outcome.stderr);
    assert!(files_below(&exports).is_empty());
}

#[test]
fn unsupported_combinations_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let refuse = |args: &[&str], parts: &[&str]| {
        let mut command = program(args);
        command.arg("--model").arg(model("llama-gqa"));
        let outcome = run(command.arg("--export-dir").arg(folder.path()));
        assert!(matches!(outcome.code, Some(1 | 2)), "{args:?}: {outcome:?}");
        for part in parts {
            assert!(
                outcome.stderr.contains(part),
                "{args:?}: {}",
                outcome.stderr
            );
        }
    };
    let lora = case("llama-gqa", "lora");
    let lora = lora.to_str().unwrap();
    let ids = ["--prompt-ids", "3,4"];
    let generate = |target, more: &[&'static str]| [&["generate", target], &ids[..], more].concat();
    refuse(
        &generate(lora, &["--quantize-head", "8bit"]),
        &["`quantization_head`", "`use_4bit`"],
    );
    refuse(
        &generate(lora, &["--quantize", "nf4", "--quantize-accuracy", "4"]),
        &["accuracy level"],
    );
    refuse(&generate(lora, &["--quantize", "2bit"]), &["2bit", "nf4"]);
    refuse(
        &generate(lora, &["--quantize", "nf4", "--quantize-embedding", "nf4"]),
        &["--quantize-embedding", "4bit, 8bit, float"],
    );
    refuse(
        &generate(lora, &["--quantize-embedding", "8bit"]),
        &["`quantization_embedding`", "`use_4bit`"],
    );
    refuse(
        &["prepare", lora, "--quantize", "nf4", "--format", "hf"],
        &["compressed-tensors has no nf4", "`--quantize 4bit`"],
    );
    let head = ["--quantize", "4bit", "--quantize-head", "4bit"];
    refuse(
        &[&["prepare", lora, "--format", "hf"], &head[..]].concat(),
        &["--quantize-head", "full precision"],
    );
    let keys = ["--quantize", "4bit", "--quantize-kv-proj", "8bit"];
    refuse(
        &[&["prepare", lora, "--format", "hf"], &keys[..]].concat(),
        &["--quantize-kv-proj", "one number of bits"],
    );
}

#[test]
fn a_scheme_that_is_not_known_is_refused_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    for (config, expected) in [
        (json!({ "quant_method": "hqq" }), ["`hqq`", "`gptq`"]),
        (
            json!({ "quant_method": "awq", "bits": 4, "version": "gemv" }),
            ["quantization_config.version", "`gemm`"],
        ),
        (
            json!({ "quant_method": "gptq", "checkpoint_format": "marlin" }),
            ["quantization_config.checkpoint_format", "`gptq_v2`"],
        ),
        (
            json!({ "quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized" }),
            ["quantization_config.format", "`pack-quantized`"],
        ),
    ] {
        let name = config["quant_method"].as_str().unwrap().to_owned();
        let base = copy_folder(&model("llama-gqa"), &folder.path().join(name));
        set_key(&base.join("config.json"), "quantization_config", config);
        let exports = folder.path().join("exports");
        let outcome = run(&mut generate(&base, &exports, &[3], 1));
        assert_eq!(outcome.code, Some(1));
        for part in expected.into_iter().chain(["--quantize", "16-bit"]) {
            assert!(outcome.stderr.contains(part), "{}", outcome.stderr);
        }
    }
}

#[test]
fn a_scheme_that_no_tensor_has_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let base = copy_folder(&model("llama-gqa"), &folder.path().join("base"));
    let config = json!({ "quant_method": "gptq", "bits": 4 });
    set_key(&base.join("config.json"), "quantization_config", config);
    let exports = folder.path().join("exports");
    let outcome = run(&mut generate(&base, &exports, &[3], 1));
    assert_eq!(outcome.code, Some(1));
    for part in ["`gptq`", "no tensor", "remove"] {
        assert!(outcome.stderr.contains(part), "{}", outcome.stderr);
    }
}
