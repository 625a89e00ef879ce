//! Bases that are quantized checkpoints, against the logits of their dequantized weights.

use std::path::{Path, PathBuf};
use std::process::Command;

use peft_bench::weights::SafetensorsFile;
use serde_json::Value;

use crate::common::{names, program, run};

/// The largest difference of logits, relative to the largest one.
const TOLERANCE: f32 = 1e-4;

fn stored(name: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/stored");
    fixtures.join(name)
}

/// `generate` of a variant of the case in `folder`, on `base`.
fn generate(folder: &Path, base: &Path, variant: &str, exports: &Path) -> Command {
    let case = case(folder);
    let ids: Vec<String> = case["prompt_ids"]
        .as_array()
        .unwrap()
        .iter()
        .map(Value::to_string)
        .collect();
    let mut command = program(["generate"]);
    match variant {
        "base" => command.arg(base),
        _ => command.arg(folder.join("adapter")).arg("--model").arg(base),
    };
    command
        .args(["--variant", variant, "--prompt-ids", &ids.join(",")])
        .args(["--max-new-tokens", &case["max_new_tokens"].to_string()])
        .args(["--json", "--ep", "cpu", "--offline", "--dtype", "float32"])
        .arg("--export-dir")
        .arg(exports)
        .arg("--logits")
        .arg(exports.join("logits.safetensors"));
    command
}

fn case(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("case.json")).unwrap()).unwrap()
}

/// How far the logits of `command` are from the expected ones of `variant`; checks the tokens.
fn difference(command: &mut Command, folder: &Path, variant: &str, exports: &Path) -> f32 {
    let outcome = run(command);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let logits = |path: &Path, name: &str| {
        let file = SafetensorsFile::open(path).unwrap();
        file.get(name).unwrap().to_f32().unwrap()
    };
    let found = logits(&exports.join("logits.safetensors"), "logits");
    let expected = logits(&folder.join("expected.safetensors"), variant);
    assert_eq!(found.len(), expected.len());
    let most = expected
        .iter()
        .fold(0.0_f32, |most, value| most.max(value.abs()));
    let off = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
    off.fold(0.0_f32, f32::max) / most
}

#[test]
fn every_scheme_computes_what_its_dequantized_weights_do() {
    let all = names(&stored(""));
    assert!(all.len() >= 15, "{all:?}");
    for name in all {
        let folder = stored(&name);
        let exports = tempfile::tempdir().unwrap();
        for variant in ["base", "unmerged", "merged"] {
            for weights in ["in-place", "mapped"] {
                let mut command = generate(&folder, &folder, variant, exports.path());
                command.args(["--weights", weights]);
                let found = difference(&mut command, &folder, variant, exports.path());
                assert!(found <= TOLERANCE, "{name} {variant} {weights}: {found}");
            }
        }
    }
}

#[test]
fn what_is_kept_in_codes_is_a_choice() {
    let exports = tempfile::tempdir().unwrap();
    for (name, kept, range) in [
        // bitsandbytes' own rounding is left out.
        ("nf4-double", "codes", 1e-4..0.05),
        ("nf4-double", "exact", 0.0..TOLERANCE),
        ("gptq-8-act", "float", 0.0..TOLERANCE),
        ("fp4", "float", 0.0..TOLERANCE),
    ] {
        let folder = stored(name);
        let mut command = generate(&folder, &folder, "base", exports.path());
        command.args(["--quantized-base", kept]);
        let found = difference(&mut command, &folder, "base", exports.path());
        assert!(range.contains(&found), "{name} {kept}: {found}");
    }
}

#[test]
fn weights_of_a_native_form_are_dequantized_in_every_run() {
    for name in ["gptq-2", "gptq-3-act", "gptq-8-act", "awq-experts", "fp4"] {
        let folder = stored(name);
        let exports = tempfile::tempdir().unwrap();
        let experiment = exports.path().join("hira");
        std::fs::create_dir(&experiment).unwrap();
        let target = if name == "gptq-8-act" {
            "qkv_proj"
        } else {
            "q_proj"
        };
        let config = serde_json::json!({"peft_type": "HIRA", "r": 2, "target_modules": [target], "task_type": "CAUSAL_LM",
            "init_weights": false});
        std::fs::write(experiment.join("adapter_config.json"), config.to_string()).unwrap();
        let logits = |form: &str| {
            let outcome = run(program(["generate"])
                .arg(&experiment)
                .arg("--model")
                .arg(&folder)
                .args([
                    "--variant",
                    "unmerged",
                    "--prompt-ids",
                    "3,4,5,6,7",
                    "--fresh",
                ])
                .args([
                    "--max-new-tokens",
                    "2",
                    "--ep",
                    "cpu",
                    "--offline",
                    "--adapter-form",
                    form,
                ])
                .arg("--export-dir")
                .arg(exports.path())
                .arg("--logits")
                .arg(exports.path().join("logits.safetensors")));
            assert_eq!(outcome.code, Some(0), "{name} {form}: {}", outcome.stderr);
            let file = SafetensorsFile::open(&exports.path().join("logits.safetensors")).unwrap();
            file.get("logits").unwrap().to_f32().unwrap()
        };
        let [reduced, native] = ["reduced", "native"].map(logits);
        let most = reduced
            .iter()
            .fold(0.0_f32, |most, value| most.max(value.abs()));
        for (a, b) in reduced.iter().zip(&native) {
            assert!((a - b).abs() <= TOLERANCE * most, "{name}: {a} {b}");
        }
    }
}

#[test]
fn merged_weights_can_be_rounded_to_the_scheme_again() {
    for name in names(&stored("")) {
        let folder = stored(&name);
        let exports = tempfile::tempdir().unwrap();
        let mut command = generate(&folder, &folder, "merged", exports.path());
        command.arg("--requantize");
        let outcome = run(&mut command);
        assert_eq!(outcome.code, Some(0), "{name}: {}", outcome.stderr);
        assert!(
            outcome.stderr.contains("scheme again"),
            "{}",
            outcome.stderr
        );
    }
    // With 8 bits little is lost.
    for name in ["gptq-8-act", "int8-skip", "ct-int8"] {
        let folder = stored(name);
        let exports = tempfile::tempdir().unwrap();
        let mut command = generate(&folder, &folder, "merged", exports.path());
        command.arg("--requantize");
        let found = difference(&mut command, &folder, "merged", exports.path());
        assert!((1e-5..0.1).contains(&found), "{name}: {found}");
    }
}

#[test]
fn a_merged_checkpoint_of_a_quantized_base_has_floats() {
    for name in [
        "gptq-3-act",
        "awq-experts",
        "nf4-double",
        "fp8-experts",
        "ct-mixed",
    ] {
        let folder = stored(name);
        let exports = tempfile::tempdir().unwrap();
        let outcome = run(program(["prepare"])
            .arg(folder.join("adapter"))
            .arg("--model")
            .arg(&folder)
            .args([
                "--format",
                "hf",
                "--dtype",
                "float32",
                "--ep",
                "cpu",
                "--offline",
            ])
            .arg("--export-dir")
            .arg(exports.path()));
        assert_eq!(outcome.code, Some(0), "{name}: {}", outcome.stderr);
        let all = crate::common::all_below(exports.path());
        let config = all
            .iter()
            .find(|path| path.ends_with("config.json"))
            .unwrap();
        let text = std::fs::read_to_string(config).unwrap();
        assert!(!text.contains("quantization_config"), "{text}");
        let merged = config.parent().unwrap();
        let mut command = generate(&folder, merged, "base", exports.path());
        let case = case(&folder);
        assert_eq!(case["token_ids"]["merged"], case["token_ids"]["unmerged"]);
        let found = difference(&mut command, &folder, "merged", exports.path());
        assert!(found <= TOLERANCE, "{name}: {found}");
    }
}

#[test]
fn a_base_that_is_quantized_is_not_quantized_again() {
    let folder = stored("gptq-2");
    let exports = tempfile::tempdir().unwrap();
    let mut command = generate(&folder, &folder, "base", exports.path());
    let outcome = run(command.args(["--quantize", "4bit"]));
    assert_eq!(outcome.code, Some(1));
    for part in [
        "quantized already",
        "GPTQ 2 bits, groups of 16",
        "--quantize none",
    ] {
        assert!(outcome.stderr.contains(part), "{}", outcome.stderr);
    }
    let plain = crate::common::model("llama-gqa");
    for option in [&["--quantized-base", "codes"][..], &["--requantize"]] {
        let mut command = program(["generate"]);
        command
            .arg(&plain)
            .args(["--prompt-ids", "3", "--max-new-tokens", "1"]);
        command
            .args(["--ep", "cpu", "--export-dir"])
            .arg(exports.path());
        let outcome = run(command.args(option));
        assert_eq!(outcome.code, Some(1));
        assert!(outcome.stderr.contains(option[0]), "{}", outcome.stderr);
    }
}
