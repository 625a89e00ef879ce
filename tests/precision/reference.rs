//! Quantized models, compared with Transformers and PEFT on the same weights
//! (`tests/fixtures/precision`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::common::*;

#[derive(Debug, Deserialize)]
pub struct Entry {
    pub model: String,
    pub variant: String,
    pub adapter: Option<String>,
    pub quantize: Option<String>,
    pub dtype: Option<String>,
    pub prompt_ids: Vec<u32>,
    pub token_ids: Vec<u32>,
    pub margin: f32,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/precision")
}

pub fn entries() -> (BTreeMap<String, Entry>, Tensors) {
    let json = read_json(&fixtures().join("precision.json"));
    let tensors = read_tensors(&fixtures().join("precision.safetensors"));
    (serde_json::from_value(json).unwrap(), tensors)
}

/// `generate` on `target`, an experiment or a checkpoint.
pub fn generate(target: &Path, export_dir: &Path, ids: &[u32], new_tokens: usize) -> Command {
    let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
    let mut command = program(["generate", "--ep", "cpu", "--threads", "1", "--json"]);
    command.arg(target).args(["--prompt-ids", &ids.join(",")]);
    command.args(["--max-new-tokens", &new_tokens.to_string()]);
    command.arg("--export-dir").arg(export_dir);
    command
}

/// The command that runs an entry.
pub fn command_for(entry: &Entry, export_dir: &Path) -> Command {
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
        // The references are in blocks of 32 everywhere.
        if quantize != "nf4" {
            let format = format!("{quantize}-block-32");
            command.args(["--quantize-block", "32", "--quantize-head", &format]);
            command.args(["--quantize-kv-proj", &format]);
        }
    }
    if let Some(dtype) = &entry.dtype {
        command.args(["--dtype", dtype]);
    }
    command
}

/// Runs a command and returns its tokens and its logits, `[tokens, vocab_size]`.
#[track_caller]
pub fn result_of(command: &mut Command) -> (Vec<u32>, Vec<f32>) {
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
fn quantized_models_compute_what_transformers_and_peft_compute_on_the_same_weights() {
    let (entries, expected) = entries();
    let folder = tempfile::tempdir().unwrap();
    let mut counted = 0;
    for (name, entry) in &entries {
        let Some(quantize) = &entry.quantize else {
            continue;
        };
        for layout in cases::LAYOUTS {
            let mut command = command_for(entry, folder.path());
            command.args(["--weights", layout]);
            if quantize != "nf4" {
                command.args(["--quantize-accuracy", "1"]);
            }
            let (tokens, logits) = result_of(&mut command);
            let difference = relative_difference(&logits, &expected[name].values);
            assert!(difference <= TOLERANCE, "{name}, {layout}: {difference:e}");
            assert_eq!(tokens, entry.token_ids, "{name}, {layout}");
        }
        counted += 1;
    }
    assert_eq!(counted, 54);
}

/// Tolerance for inputs rounded to 8 bits in blocks of 32: each changes by at most 1/254 of its
/// block's largest value.
const ROUNDED_INPUTS: f32 = 4e-2;

#[test]
fn inputs_rounded_to_8_bits_change_logits_little() {
    let (entries, expected) = entries();
    let folder = tempfile::tempdir().unwrap();
    for (name, entry) in &entries {
        if !matches!(entry.quantize.as_deref(), Some("4bit" | "8bit")) {
            continue;
        }
        let (tokens, logits) = result_of(&mut command_for(entry, folder.path()));
        // Only the first row, since later ones may follow a different token.
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
