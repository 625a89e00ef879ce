//! 16-bit weights.

use std::fs;
use std::path::Path;

use peft_bench::weights::{Dtype, round_to};

use crate::common::*;
use crate::reference::{command_for, entries, generate, result_of};

/// Tolerance between float32 arithmetic on 16-bit weights and Transformers, which rounds every
/// intermediate value to 16 bits.
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
            "{name}: its tokens depend on rounding"
        );
        let (tokens, logits) = result_of(&mut command_for(entry, folder.path()));
        let difference = relative_difference(&logits, &expected[name].values);
        assert!(difference <= tolerance, "{name}: {difference:e}");
        assert_eq!(tokens, entry.token_ids, "{name}");
        counted += 1;
    }
    assert_eq!(counted, 8);
}

#[test]
fn a_16_bit_checkpoint_is_read_in_place_with_the_same_result() {
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
            // No file as large as the weights was written.
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

/// What an adapter computes from a weight, once (DoRA's norm, a decomposition) or instead of it
/// (HiRA), is computed from the rounded weight, as in PEFT, which loads the base in that type.
#[test]
fn adapters_see_the_rounded_weights() {
    for (name, adapters) in [
        (
            "llama-gqa",
            &[
                "adaption-prompt",
                "c3a",
                "dora",
                "fourierft",
                "hira",
                "hra",
                "lora-pissa",
                "osf",
                "randlora",
                "shira",
                "trainable-tokens",
            ][..],
        ),
        ("gpt2", &["dora", "fourierft-default-targets", "randlora"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let rounded = copy_folder(&model(name), &folder.path().join("rounded"));
        edit_tensors(&rounded.join("model.safetensors"), |tensors| {
            for tensor in tensors.values_mut() {
                for value in &mut tensor.values {
                    *value = round_to(*value, Dtype::BFloat16);
                }
            }
        });
        for &adapter in adapters {
            let logits = |base: &Path| {
                let exports = folder.path().join("exports");
                let mut command = generate(&case(name, adapter), &exports, &[5, 6, 7, 8], 3);
                command.arg("--model").arg(base);
                result_of(command.args(["--dtype", "bfloat16"]))
            };
            assert_eq!(
                logits(&model(name)),
                logits(&rounded),
                "{adapter} on {name}"
            );
        }
    }
}
