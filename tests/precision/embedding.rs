//! Quantized embeddings, and heads that share their codes.

use std::path::Path;

use peft_bench::quantize::Format;
use peft_bench::weights::SafetensorsFile;

use crate::common::*;
use crate::quantized_trial::{EMBEDDING, QuantizedTrial, check, options_of_layers};
use crate::reference::{generate, result_of};

/// Adapters on the embedding, tied or not, see the dequantized rows; so does a head that shares the
/// codes.
#[test]
fn adapters_on_a_model_with_a_quantized_embedding_compute_the_same() {
    for format in [Format::Int4Blocks32, Format::Int8Blocks32] {
        let trial = QuantizedTrial::with_embedding("llama-gqa", Format::Int4Blocks32, Some(format));
        let cases = [
            "cpt",
            "dora-embed",
            "hira-embed",
            "lora",
            "lora-embed",
            "lora-save-lm-head",
            "lora-tokens",
            "oft-embed",
            "p-tuning-mlp",
            "prompt-tuning",
            "shadow",
            "tinylora-embed",
            "trainable-tokens",
            "xlora",
        ];
        check(&trial, &cases.map(str::to_owned));
        // Its width isn't a multiple of the block size.
        let trial = QuantizedTrial::with_embedding("llama-tied", format, Some(format));
        let cases = [
            "dora-embed",
            "lora",
            "lora-embed",
            "lora-embed-head",
            "lora-head",
            "lora-save-embed",
            "lora-tie-embed",
            "lora-tokens",
            "lora-tokens-map",
            "trainable-tokens",
        ];
        check(&trial, &cases.map(str::to_owned));
        let file = SafetensorsFile::open(&trial.file()).unwrap();
        assert!(file.get("lm_head.weight.codes").is_none());
        // A head in another format has its own codes.
        let other = [Format::Int4Blocks32, Format::Int8Blocks32]
            [usize::from(format == Format::Int4Blocks32)];
        let trial = QuantizedTrial::with_embedding("llama-tied", other, Some(format));
        check(&trial, &["lora".to_owned()]);
        let file = SafetensorsFile::open(&trial.file()).unwrap();
        let codes = |name: &str| file.get(&format!("{name}.codes")).unwrap().shape.to_vec();
        assert_ne!(codes("lm_head.weight"), codes(EMBEDDING));
        let trial = QuantizedTrial::with_embedding("opt-nonorm", Format::Nf4, Some(format));
        check(&trial, &["lora".to_owned(), "trainable-tokens".to_owned()]);
    }
}

/// The rows equal the dequantized ones, bit for bit.
#[test]
fn a_quantized_embedding_is_looked_up_without_rounding() {
    for format in [Format::Int4Blocks32, Format::Int8Blocks32] {
        let trial = QuantizedTrial::with_embedding("llama-gqa", Format::Int4Blocks32, Some(format));
        let folder = case("llama-gqa", "lora");
        let found = trial.logits(&folder, "base", true);
        // The same model with these rows in float32, and everything else unchanged.
        let rows = read_tensors(&trial.plain().join("model.safetensors")).remove(EMBEDDING);
        let stored = copy_folder(&model("llama-gqa"), &trial.root.path().join("rows"));
        edit_tensors(&stored.join("model.safetensors"), |tensors| {
            let before = tensors.insert(EMBEDDING.to_owned(), rows.unwrap());
            assert_ne!(before.as_ref(), tensors.get(EMBEDDING));
        });
        let mut command = program(["generate", "--ep", "cpu", "--threads", "1"]);
        command
            .arg(&stored)
            .arg("--export-dir")
            .arg(stored.join("exports"));
        let [head, accuracy] = ["--quantize-head", "--quantize-accuracy"];
        command.args(options_of_layers(Format::Int4Blocks32));
        command.args([head, Format::Int4Blocks32.name(), accuracy, "1"]);
        assert_eq!(trial.logits_of(command, &folder, "base"), found);
    }
}

/// In a checkpoint with only a head, which serves as the embedding too, both are quantized, each in
/// its own format.
#[test]
fn a_head_that_serves_as_the_embedding_is_quantized_in_both_formats() {
    let folder = tempfile::tempdir().unwrap();
    let exports = folder.path().join("exports");
    let stored = copy_folder(&model("llama-tied"), &folder.path().join("head"));
    edit_tensors(&stored.join("model.safetensors"), |tensors| {
        let rows = tensors.remove(EMBEDDING).unwrap();
        tensors.insert("lm_head.weight".to_owned(), rows);
    });
    for (head, embedding) in [
        ("4bit", "8bit"),
        ("nf4", "4bit"),
        ("float", "8bit"),
        ("8bit", "8bit"),
    ] {
        let logits = |base: &Path| {
            let mut command = generate(base, &exports, &[5, 6, 7, 8], 3);
            command.args(["--quantize", "4bit", "--quantize-accuracy", "1"]);
            result_of(command.args(["--quantize-head", head, "--quantize-embedding", embedding]))
        };
        assert_eq!(
            logits(&stored),
            logits(&model("llama-tied")),
            "{head}, {embedding}"
        );
    }
}
