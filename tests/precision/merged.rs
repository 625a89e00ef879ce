//! Merged weights, which are quantized after the merge.

use peft_bench::quantize::Format;
use peft_bench::weights::Dtype;
use serde_json::json;

use crate::common::*;
use crate::quantized_trial::{
    APART, CLOSE, EMBEDDING, QuantizedTrial, dequantized, prepared_in_full,
};
use crate::unmerged::{cases_of, needs_more};

/// A merge is quantized like a base with the merged weights.
#[test]
fn merged_weights_are_quantized_like_a_base_with_these_weights() {
    let only_unmerged = ["lily", "lora-alora", "lora-arrow", "shadow", "xlora"];
    let merges =
        |name: &str| needs_more(name) && !only_unmerged.iter().any(|other| name.starts_with(other));
    let mut cases = cases_of("llama-gqa", |name| {
        merges(name) && name != "lora-replication"
    });
    cases.extend(["lora-pissa", "lora-kasa", "lora-olora", "adamss"].map(str::to_owned));
    assert!(cases.len() > 20, "{cases:?}");
    are_quantized_like_a_base(Format::Int4Blocks32, &cases);
}

#[test]
fn merged_weights_with_zero_points_are_quantized_like_a_base_with_these_weights() {
    are_quantized_like_a_base(Format::KQuantBlocks16, &["lora", "dora"].map(str::to_owned));
}

fn are_quantized_like_a_base(format: Format, cases: &[String]) {
    let trial = QuantizedTrial::new("llama-gqa", format);
    let stored = read_checkpoint(&trial.plain());
    for name in cases {
        let folder = case("llama-gqa", name);
        let merged = prepared_in_full(&trial, &folder, "merged", "overlay.safetensors");
        let mut tensors = stored.clone();
        for (key, tensor) in merged {
            let linear = key.ends_with("_proj.weight");
            let merged = match linear {
                false => tensor,
                true => dequantized(&tensor, format),
            };
            let own = tensors.get_mut(&key).unwrap();
            assert_eq!(own.shape, merged.shape);
            *own = merged;
        }
        let plain = copy_folder(&trial.plain(), &trial.root.path().join(name));
        write_tensors(&plain.join("model.safetensors"), &tensors, Dtype::Float32);
        let found = trial.logits(&folder, "merged", true);
        let expected = trial.over(&plain, &folder);
        let difference = relative_difference(&found, &expected);
        assert!(difference <= CLOSE, "{name}: {difference:e}");
        let base = trial.logits(&folder, "base", true);
        assert!(relative_difference(&found, &base) > APART, "{name}");
    }
}

/// Merged embeddings are quantized; a tied head is the merged embedding, in its own format.
#[test]
fn a_merged_embedding_and_its_tied_head_are_quantized_after_the_merge() {
    for (embedding, head) in [
        (Format::Int8Blocks32, Format::Int8Blocks32),
        (Format::Int4Blocks32, Format::Int8Blocks32),
        (Format::Int8Blocks32, Format::Int4Blocks32),
    ] {
        let trial = QuantizedTrial::with_embedding("llama-tied", head, Some(embedding));
        for name in ["lora-tie-embed", "trainable-tokens"] {
            let folder = trial.case(name);
            let overlay = prepared_in_full(&trial, &folder, "merged", "overlay.safetensors");
            let plain = copy_folder(&trial.plain(), &trial.root.path().join(name));
            set_key(
                &plain.join("config.json"),
                "tie_word_embeddings",
                json!(false),
            );
            edit_tensors(&plain.join("model.safetensors"), |tensors| {
                for (key, tensor) in &overlay {
                    let format = if key == EMBEDDING { embedding } else { head };
                    tensors.insert(key.clone(), dequantized(tensor, format));
                }
                let copy = dequantized(&overlay[EMBEDDING], head);
                tensors.insert("lm_head.weight".to_owned(), copy);
            });
            let found = trial.logits(&folder, "merged", true);
            let difference = relative_difference(&found, &trial.over(&plain, &folder));
            assert!(difference <= CLOSE, "{name}: {difference:e}");
            let base = trial.logits(&folder, "base", true);
            assert!(relative_difference(&found, &base) > APART, "{name}");
        }
    }
}
