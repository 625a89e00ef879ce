//! Values that aren't finite, or that overflow.

use std::fs;

use crate::common::{assert_refused, edit_tensors};
use crate::safetensors_bytes::data_of;
use crate::spoilt::Spoilt;

#[test]
fn values_that_are_not_finite_are_refused() {
    // DEFT's factor isn't listed: orthonormalizing it would make it finite again.
    for (case, name, values) in [
        (
            "lora",
            "lora_B.weight",
            &[f32::NAN, f32::INFINITY, f32::NEG_INFINITY][..],
        ),
        ("deft-para-qr", "deft_P", &[f32::NAN]),
    ] {
        let name = format!("base_model.model.model.layers.0.self_attn.q_proj.{name}");
        for value in values {
            let trial = Spoilt::new("llama-gqa", case);
            let mut spoilt = fs::read(trial.weights()).unwrap();
            let data = data_of(&spoilt, &name);
            for element in spoilt[data].chunks_exact_mut(4) {
                element.copy_from_slice(&value.to_le_bytes());
            }
            fs::write(trial.weights(), spoilt).unwrap();
            let merged = trial.prepare(&["--variant", "merged"]);
            trial.refused(
                &merged,
                &[&name, "adapter_model", "not finite", "element 0"],
            );
            let unmerged = trial.prepare(&["--variant", "unmerged"]);
            trial.refused(
                &unmerged,
                &[&name, "adapter_model", "not finite", "element 0"],
            );
        }
    }
}

#[test]
fn a_merged_value_that_overflows_float16_is_refused() {
    let trial = Spoilt::new("llama-gqa", "lora");
    let half = trial.prepare(&["--dtype", "float16"]);
    assert_eq!(half.code, Some(0), "{half:?}");
    let before = trial.stamps();
    edit_tensors(&trial.weights(), |tensors| {
        for tensor in tensors.values_mut() {
            tensor.values.iter_mut().for_each(|value| *value *= 1e3);
        }
    });
    let outcome = trial.prepare(&["--dtype", "float16", "--variant", "merged"]);
    assert_refused(
        &outcome,
        &["overlay.safetensors", "_proj.weight", "rounding to float16"],
    );
    assert_eq!(trial.stamps(), before);
    let outcome = trial.prepare(&["--dtype", "bfloat16", "--variant", "merged"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
}

/// Overwrites the first element of the base's tensor `name`.
fn spoil_base(trial: &Spoilt, name: &str, value: f32) {
    let mut bytes = fs::read(trial.base_weights()).unwrap();
    let at = data_of(&bytes, name).start;
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    fs::write(trial.base_weights(), bytes).unwrap();
}

#[test]
fn a_weight_of_the_base_that_is_not_finite_is_refused() {
    for (name, value, found) in [
        ("model.layers.0.mlp.up_proj.weight", f32::NAN, "NaN"),
        ("model.norm.weight", f32::NEG_INFINITY, "-inf"),
    ] {
        let trial = Spoilt::new("llama-gqa", "lora");
        spoil_base(&trial, name, value);
        let words = [
            "model.safetensors",
            &format!("`{name}`"),
            found,
            "element 0",
        ];
        for variant in ["base", "merged", "unmerged"] {
            trial.refused(&trial.prepare(&["--variant", variant]), &words);
        }
        trial.base_refused(&words);
        // The mended weight is accepted.
        spoil_base(&trial, name, 0.5);
        assert_eq!(trial.prepare(&[]).code, Some(0));
    }
}

#[test]
fn logits_that_are_not_finite_are_refused() {
    let trial = Spoilt::new("llama-gqa", "lora");
    // Finite in float32, but not in the requested dtype.
    spoil_base(&trial, "model.layers.0.mlp.up_proj.weight", 1e5);
    for variant in ["base", "unmerged"] {
        let options = [
            "--prompt-ids",
            "1,2,3",
            "--dtype",
            "float16",
            "--variant",
            variant,
        ];
        let outcome = trial.generate(&options);
        assert_refused(&outcome, &["logits", variant, "not finite", "float16"]);
    }
}
