//! How weights are held and rounded, and how many threads use them: none of these changes the
//! logits.

use peft_bench::weights::Dtype;

use crate::common::reference::{
    Bench, Case, assert_apart, assert_close, check_variant, generate, join, prepared_folder,
};
use crate::common::{case, model, program, read_checkpoint, read_tensors};

/// Weights in half precision are rounded, whatever the arithmetic. If the casts that round on a CPU
/// were optimised away, the logits would be those of the unrounded checkpoint.
fn check_rounding(model_name: &str, dtype: Dtype) {
    let bench = Bench::new(model_name, "lora");
    let options = ["--dtype", dtype.name()];
    let tensors = read_checkpoint(&bench.model);
    let rounded = bench.rounded_model(&tensors, dtype);

    let mut command = bench
        .case
        .generate(rounded.path(), "base", bench.exported.path());
    let expected = generate(&mut command);
    for weights in ["mapped", "resident"] {
        let actual = bench.generate("base", &["--dtype", dtype.name(), "--weights", weights]);
        assert_close(&actual, &expected);
        assert_apart(&actual, &bench.generate("base", &[]));
    }

    let mut command = bench
        .case
        .generate(&bench.folder, "unmerged", bench.exported.path());
    let expected = generate(command.arg("--model").arg(rounded.path()));
    let actual = bench.generate("unmerged", &options);
    assert_close(&actual, &expected);
    assert_apart(&actual, &bench.generate("unmerged", &[]));

    // Merged in float32, and rounded once.
    let exact = Bench::new(model_name, "lora");
    exact.prepare();
    let overlay = prepared_folder(exact.exported.path()).join("merged/overlay.safetensors");
    let mut merged = tensors;
    merged.extend(read_tensors(&overlay));
    let merged = bench.rounded_model(&merged, dtype);
    let mut command = bench
        .case
        .generate(merged.path(), "base", bench.exported.path());
    let expected = generate(&mut command);
    let actual = bench.generate("merged", &options);
    assert_close(&actual, &expected);
    assert_apart(&actual, &bench.generate("merged", &[]));
}

#[test]
fn float16_rounds_the_weights_on_a_cpu() {
    for model in ["llama-gqa", "opt-pre"] {
        check_rounding(model, Dtype::Float16);
    }
}

#[test]
fn bfloat16_rounds_the_weights_on_a_cpu() {
    for model in ["llama-tied", "opt-post"] {
        check_rounding(model, Dtype::BFloat16);
    }
}

/// Each arrangement of products, laid out as in measurements.
#[test]
fn every_family_gives_what_the_reference_gives_however_weights_are_held() {
    let mut failures = Vec::new();
    for model_name in [
        "bloom",
        "cohere",
        "falcon",
        "falcon-groups",
        "gemma2",
        "gemma3",
        "gpt-neox",
        "gpt2",
        "gptj",
        "granite",
        "mistral",
        "mixtral",
        "mpt",
        "olmo2",
        "phi",
        "phi3",
        "qwen3",
        "qwen3-moe",
        "stablelm-parallel",
        "starcoder2",
    ] {
        let mut cases = vec![("base", "base"), ("lora", "unmerged")];
        cases.extend(match model_name {
            "mixtral" => vec![("lora-experts", "unmerged"), ("lora-experts", "merged")],
            "qwen3-moe" => vec![
                ("lora-experts-up", "unmerged"),
                ("lora-experts-up", "merged"),
            ],
            "gpt2" => vec![("lora-parameters", "unmerged")],
            _ => vec![],
        });
        for weights in ["mapped", "resident"] {
            for &(case_name, variant) in &cases {
                let folder = case(model_name, case_name);
                let case = Case::read(&folder);
                let exported = tempfile::tempdir().unwrap();
                let target = match variant {
                    "base" => model(model_name),
                    _ => folder.clone(),
                };
                let mut command = case.generate(&target, variant, exported.path());
                command.args(["--weights", weights]);
                if variant != "base" {
                    command.arg("--model").arg(model(model_name));
                }
                if let Err(message) = check_variant(&case, &folder, variant, &mut command) {
                    failures.push(format!("{model_name}/{case_name} {weights}: {message}"));
                }
            }
        }
    }
    let failures = failures.join("\n");
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn resident_weights_give_the_same_logits_as_mapped_ones() {
    for (model, case) in [
        ("llama-gqa", "dora-embed"),
        ("opt-post", "lora"),
        ("llama-linear", "lora"),
    ] {
        let bench = Bench::new(model, case);
        for variant in ["base", "unmerged", "merged"] {
            let mapped = bench.generate(variant, &["--weights", "mapped"]);
            let resident = bench.generate(variant, &["--weights", "resident"]);
            assert_close(&resident, &mapped);
        }
    }
}

#[test]
fn several_threads_give_the_same_logits() {
    let bench = Bench::new("llama-gqa", "lora");
    let one = bench.generate("unmerged", &[]);
    let mut command = program(["generate", "--ep", "cpu", "--threads", "3", "--json"]);
    command.arg(&bench.folder).arg("--model").arg(&bench.model);
    command.args([
        "--prompt-ids",
        &join(&bench.case.prompt_ids),
        "--max-new-tokens",
        "8",
    ]);
    let three = generate(command.arg("--export-dir").arg(bench.exported.path()));
    assert_close(&three, &one);
}
