//! The built program with quantized weights and with 16-bit ones, against transformers and PEFT over the same weights
//! (`tests/fixtures/precision`); and files of quantized weights that are damaged, old, or half made.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::*;
use peft_bench::quantize::Format;
use peft_bench::weights::Dtype;
use serde::Deserialize;
use serde_json::json;

#[derive(Debug, Deserialize)]
struct Entry {
    model: String,
    variant: String,
    adapter: Option<String>,
    quantize: Option<String>,
    dtype: Option<String>,
    prompt_ids: Vec<u32>,
    token_ids: Vec<u32>,
    margin: f32,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/precision")
}

fn entries() -> (BTreeMap<String, Entry>, Tensors) {
    let json = read_json(&fixtures().join("precision.json"));
    let tensors = read_tensors(&fixtures().join("precision.safetensors"));
    (serde_json::from_value(json).unwrap(), tensors)
}

/// `generate` on `target`, which is an experiment or a checkpoint.
fn generate(target: &Path, export_dir: &Path, ids: &[u32], new_tokens: usize) -> Command {
    let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
    let mut command = program(["generate", "--ep", "cpu", "--threads", "1", "--json"]);
    command.arg(target).args(["--prompt-ids", &ids.join(",")]);
    command.args(["--max-new-tokens", &new_tokens.to_string()]);
    command.arg("--export-dir").arg(export_dir);
    command
}

/// The command for an entry.
fn command_for(entry: &Entry, export_dir: &Path) -> Command {
    let model = model(&entry.model);
    let new_tokens = entry.token_ids.len();
    let mut command = match &entry.adapter {
        None => generate(&model, export_dir, &entry.prompt_ids, new_tokens),
        Some(adapter) => {
            let experiment = case(&entry.model, adapter);
            let mut command = generate(&experiment, export_dir, &entry.prompt_ids, new_tokens);
            command.arg("--model").arg(model);
            command
        }
    };
    command.args(["--variant", &entry.variant]);
    if let Some(quantize) = &entry.quantize {
        command.args(["--quantize", quantize]);
    }
    if let Some(dtype) = &entry.dtype {
        command.args(["--dtype", dtype]);
    }
    command
}

/// Tokens and logits, `[tokens, vocab_size]`.
#[track_caller]
fn result_of(command: &mut Command) -> (Vec<u32>, Vec<f32>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("logits.safetensors");
    let outcome = run(command.arg("--logits").arg(&path));
    assert_eq!(outcome.code, Some(0), "{command:?}: {}", outcome.stderr);
    #[derive(Deserialize)]
    struct Printed {
        token_ids: Vec<u32>,
    }
    let printed: Printed = serde_json::from_str(&outcome.stdout).unwrap();
    (
        printed.token_ids,
        read_tensors(&path).remove("logits").unwrap().values,
    )
}

#[test]
fn quantized_models_compute_what_transformers_and_peft_compute_over_the_same_weights() {
    let (entries, expected) = entries();
    let folder = tempfile::tempdir().unwrap();
    let mut counted = 0;
    for (name, entry) in &entries {
        let Some(quantize) = &entry.quantize else {
            continue;
        };
        let mut command = command_for(entry, folder.path());
        if quantize != "nf4" {
            command.args(["--quantize-accuracy", "1"]);
        }
        let (tokens, logits) = result_of(&mut command);
        let difference = relative_difference(&logits, &expected[name].values);
        assert!(difference <= TOLERANCE, "{name}: {difference:e}");
        assert_eq!(tokens, entry.token_ids, "{name}");
        counted += 1;
    }
    assert_eq!(counted, 39);
}

/// Inputs that are rounded to 8 bits in blocks of 32 change each by at most 1/254 of its block's largest.
const ROUNDED_INPUTS: f32 = 4e-2;

#[test]
fn inputs_of_8_bits_change_little() {
    let (entries, expected) = entries();
    let folder = tempfile::tempdir().unwrap();
    for (name, entry) in &entries {
        if !matches!(entry.quantize.as_deref(), Some("4bit" | "8bit")) {
            continue;
        }
        let (tokens, logits) = result_of(&mut command_for(entry, folder.path()));
        // The first row: later ones may follow another token.
        let vocab = expected[name].shape[1];
        let difference = relative_difference(&logits[..vocab], &expected[name].values[..vocab]);
        assert!(
            difference <= ROUNDED_INPUTS && difference > 0.0,
            "{name}: {difference:e}"
        );
        if entry.margin > 2.0 * ROUNDED_INPUTS {
            assert_eq!(tokens, entry.token_ids, "{name}");
        }
    }
}

/// How far float32 arithmetic over weights of 16 bits may lie from transformers', which rounds every intermediate
/// value to 16 bits.
fn half_tolerance(dtype: Dtype) -> f32 {
    match dtype {
        Dtype::Float16 => 3e-3,
        _ => 2e-2,
    }
}

#[test]
fn weights_of_16_bits_give_what_transformers_gives_in_16_bits() {
    let (entries, expected) = entries();
    let folder = tempfile::tempdir().unwrap();
    let mut counted = 0;
    for (name, entry) in &entries {
        let Some(dtype) = &entry.dtype else {
            continue;
        };
        let tolerance = half_tolerance(dtype.parse().unwrap());
        assert!(
            entry.margin > 2.0 * tolerance,
            "{name}: its tokens hang on rounding"
        );
        let (tokens, logits) = result_of(&mut command_for(entry, folder.path()));
        let difference = relative_difference(&logits, &expected[name].values);
        assert!(difference <= tolerance, "{name}: {difference:e}");
        assert_eq!(tokens, entry.token_ids, "{name}");
        counted += 1;
    }
    assert_eq!(counted, 6);
}

#[test]
fn a_checkpoint_of_16_bits_is_read_where_it_is_and_gives_the_same() {
    for (name, dtype) in [("float16", Dtype::Float16), ("bfloat16", Dtype::BFloat16)] {
        for base in ["llama-gqa", "opt-pre"] {
            let folder = tempfile::tempdir().unwrap();
            let stored = copy_folder(&model(base), &folder.path().join("stored"));
            let weights = stored.join("model.safetensors");
            write_tensors(&weights, &read_tensors(&weights), dtype);
            let exports = folder.path().join("exports");
            let ids = [5, 6, 7, 8];
            let direct = result_of(generate(&stored, &exports, &ids, 4).args(["--dtype", name]));
            let rounded =
                result_of(generate(&model(base), &exports, &ids, 4).args(["--dtype", name]));
            assert_eq!(direct, rounded, "{base} in {name}");
            // Nothing of the weights' size was written.
            let written = files_below(&exports);
            assert!(
                written
                    .iter()
                    .all(|path| !path.ends_with("model.safetensors"))
            );
            let largest = written
                .iter()
                .map(|path| fs::metadata(path).unwrap().len())
                .max();
            assert!(largest.unwrap() < fs::metadata(&weights).unwrap().len());
        }
    }
}

/// The file of quantized weights below `export_dir`.
fn quantized_file(export_dir: &Path) -> PathBuf {
    let mut found = files_below(export_dir);
    found.retain(|path| path.ends_with("quantized.safetensors"));
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[test]
fn quantized_weights_are_made_once_for_all_experiments() {
    let folder = tempfile::tempdir().unwrap();
    let run_case = |name: &str| {
        let mut command = generate(&case("llama-gqa", name), folder.path(), &[3, 4, 5], 2);
        command.arg("--model").arg(model("llama-gqa"));
        run(command.args(["--quantize", "4bit"]))
    };
    assert!(run_case("lora").stderr.contains("quantizing weights"));
    let made = fs::metadata(quantized_file(folder.path()))
        .unwrap()
        .modified()
        .unwrap();
    let second = run_case("dora");
    assert_eq!(second.code, Some(0), "{}", second.stderr);
    assert!(!second.stderr.contains("quantizing"), "{}", second.stderr);
    let file = quantized_file(folder.path());
    assert_eq!(fs::metadata(file).unwrap().modified().unwrap(), made);
}

#[test]
fn a_merge_quantizes_what_it_changed_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = program(["prepare", "--variant", "merged", "--quantize", "4bit"]);
    command
        .arg(case("llama-gqa", "lora"))
        .arg("--model")
        .arg(model("llama-gqa"));
    let outcome = run(command.arg("--export-dir").arg(folder.path()));
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let mut found = files_below(folder.path());
    found.retain(|path| path.ends_with("overlay.safetensors"));
    let overlay = peft_bench::weights::SafetensorsFile::open(&found[0]).unwrap();
    let names = overlay.names();
    // q and v of both layers, codes and scales of each.
    assert_eq!(names.len(), 8, "{names:?}");
    for name in &names {
        let view = overlay.get(name).unwrap();
        let rows = if name.contains("q_proj") { 64 } else { 32 };
        let [codes, scales] = Format::Int4.shapes(rows, 64);
        match name.ends_with(".codes") {
            true => assert_eq!(view.shape, codes),
            false => assert_eq!(view.shape, scales),
        }
    }
}

#[test]
fn a_damaged_file_of_quantized_weights_is_made_again() {
    let (entries, _) = entries();
    let entry = &entries["llama-gqa/4bit/base"];
    let folder = tempfile::tempdir().unwrap();
    let whole = result_of(&mut command_for(entry, folder.path()));
    let path = quantized_file(folder.path());
    let bytes = fs::read(&path).unwrap();
    let damaged: [&[u8]; 4] = [b"", &bytes[..100], &bytes[..bytes.len() - 7], &[0; 64]];
    for damage in damaged {
        fs::write(&path, damage).unwrap();
        assert_eq!(result_of(&mut command_for(entry, folder.path())), whole);
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
    // A whole file with other sizes, under the right fingerprint.
    let header = String::from_utf8_lossy(&bytes[8..]).into_owned();
    let fingerprint = header.split("\"fingerprint\":\"").nth(1).unwrap();
    let fingerprint = &fingerprint[..fingerprint.find('"').unwrap()];
    let other = json!({ "__metadata__": { "fingerprint": fingerprint } }).to_string();
    let mut small = (other.len() as u64).to_le_bytes().to_vec();
    small.extend(other.as_bytes());
    fs::write(&path, small).unwrap();
    assert_eq!(result_of(&mut command_for(entry, folder.path())), whole);
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn what_an_interrupted_run_left_is_removed_and_weights_that_changed_are_quantized_again() {
    let folder = tempfile::tempdir().unwrap();
    let base = copy_folder(&model("llama-gqa"), &folder.path().join("base"));
    let exports = folder.path().join("exports");
    let made = |command: &mut Command| result_of(command.args(["--quantize", "8bit"]));
    let first = made(&mut generate(&base, &exports, &[3, 4, 5], 3));
    let file = quantized_file(&exports);
    // A process that's gone: ids end below this.
    let left = file.with_file_name(".partial-4194305-abc");
    fs::create_dir(&left).unwrap();
    fs::write(left.join("quantized.safetensors"), b"half").unwrap();
    let bytes = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    assert_eq!(made(&mut generate(&base, &exports, &[3, 4, 5], 3)), first);
    assert_eq!(fs::read(&file).unwrap(), bytes);
    assert!(!left.exists());

    edit_tensors(&base.join("model.safetensors"), |tensors| {
        let name = "model.layers.0.self_attn.q_proj.weight";
        tensors
            .get_mut(name)
            .unwrap()
            .values
            .iter_mut()
            .for_each(|value| *value *= 2.0);
    });
    assert_ne!(made(&mut generate(&base, &exports, &[3, 4, 5], 3)), first);
    assert_ne!(fs::read(&file).unwrap(), bytes);
}

#[test]
fn a_weight_that_is_not_finite_is_named_and_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let base = copy_folder(&model("llama-gqa"), &folder.path().join("base"));
    let exports = folder.path().join("exports");
    let path = base.join("model.safetensors");
    let file = peft_bench::weights::SafetensorsFile::open(&path).unwrap();
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
fn what_is_not_supported_in_combination_is_refused_by_name() {
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
        &["prepare", lora, "--quantize", "4bit", "--format", "hf"],
        &["--format hf", "full precision"],
    );
}

#[test]
fn a_checkpoint_that_is_quantized_already_is_refused_by_its_method() {
    let folder = tempfile::tempdir().unwrap();
    for method in ["gptq", "awq", "bitsandbytes"] {
        let base = copy_folder(&model("llama-gqa"), &folder.path().join(method));
        set_key(
            &base.join("config.json"),
            "quantization_config",
            json!({ "quant_method": method, "bits": 4 }),
        );
        let outcome = run(&mut generate(
            &base,
            &folder.path().join("exports"),
            &[3],
            1,
        ));
        assert_eq!(outcome.code, Some(1));
        let expected = ["quantization_config", method, "--quantize"];
        for part in expected {
            assert!(outcome.stderr.contains(part), "{}", outcome.stderr);
        }
    }
}

#[test]
fn verify_tells_what_quantization_does_apart_from_parity() {
    let folder = tempfile::tempdir().unwrap();
    for (quantize, all) in [("8bit", true), ("4bit", false)] {
        let mut command = program([
            "verify",
            "--ep",
            "cpu",
            "--threads",
            "1",
            "--quantize",
            quantize,
        ]);
        command
            .arg(case("opt-pre", "lora"))
            .arg("--model")
            .arg(model("opt-pre"));
        let outcome = run(command.arg("--export-dir").arg(folder.path()));
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        let lines: Vec<&str> = outcome.stdout.lines().collect();
        let starts = |start: &str| lines.iter().filter(|line| line.starts_with(start)).count();
        assert_eq!(starts("parity"), 2, "{}", outcome.stdout);
        for variant in ["base ", "unmerged", "merged"] {
            assert_eq!(starts(variant), 1, "{}", outcome.stdout);
        }
        let exact = lines
            .iter()
            .find(|line| line.starts_with("parity"))
            .unwrap();
        assert!(
            exact.contains("1e-4 allowed") && exact.contains("16 of 16"),
            "{exact}"
        );
        let base = lines.iter().find(|line| line.starts_with("base")).unwrap();
        let number = base
            .split("divergence ")
            .nth(1)
            .unwrap()
            .split(' ')
            .next()
            .unwrap();
        let divergence: f64 = number.parse().unwrap();
        let expected = if all { 1e-5..1e-2 } else { 1e-2..1.0 };
        assert!(expected.contains(&divergence), "{base}");
    }
}

#[test]
fn a_result_says_what_was_quantized_and_counts_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let experiment = copy_folder(
        &case("llama-gqa", "lora"),
        &folder.path().join("lora/small"),
    );
    let params = json!({
        "use_4bit": true, "quantization_head": "8bit", "quantization_embedding": "8bit", "max_new_tokens": 4,
        "num_inference_runs": 2,
    });
    fs::write(experiment.join("benchmark_params.json"), params.to_string()).unwrap();
    let prompts = folder.path().join("prompts.json");
    let texts = json!({ "short": ["a tide"], "medium": ["the flood leads"], "long": ["measure the right one"] });
    fs::write(&prompts, texts.to_string()).unwrap();
    let results = folder.path().join("results");
    let mut command = program(["measure", "--ep", "cpu", "--threads", "1"]);
    command
        .arg(&experiment)
        .arg("--model")
        .arg(model("llama-gqa"));
    command
        .arg("--prompts")
        .arg(&prompts)
        .arg("--output")
        .arg(&results);
    let outcome = run(command
        .arg("--export-dir")
        .arg(folder.path().join("exports")));
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(
        outcome
            .stdout
            .contains("4bit-head-8bit-embedding-8bit weights"),
        "{}",
        outcome.stdout
    );
    let result = read_json(&results.join("lora--small.json"));
    let found = &result["meta_info"]["quantization"];
    assert_eq!(found["scheme"], "rtn");
    assert_eq!(
        (&found["bits"], &found["block_size"]),
        (&json!(4), &json!(32))
    );
    assert_eq!(
        (&found["accuracy_level"], &found["head"]),
        (&json!(4), &json!("8bit"))
    );
    assert_eq!(found["embedding"], "8bit");
    assert_eq!(found["quantized_weights"], 16);
    assert_eq!(found["replaced_by_unmerged"], 0);
    assert_eq!(found["float"], json!(["norms", "biases"]));
    let config = &result["run_info"]["benchmark_config"];
    assert_eq!(
        (&config["use_4bit"], &config["quantization_head"]),
        (&json!(true), &json!("8bit"))
    );
    assert_eq!(config["quantization_embedding"], "8bit");
    assert_eq!(result["generation_info"]["parity"]["norm"], "mean");
    let executed = &result["generation_info"]["variants"]["merged"]["executed"];
    let products = executed["step"]["operators"]["CPUExecutionProvider"]["MatMulNBits"].as_u64();
    // 2 layers of 4, since queries, keys and values are one, and so are gate and up; and the head.
    assert_eq!(products, Some(9), "{executed}");
}
