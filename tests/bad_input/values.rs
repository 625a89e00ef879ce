//! Values that aren't finite, or won't be.

use std::fs;

use crate::common::{assert_refused, edit_tensors};
use crate::safetensors_bytes::data_of;
use crate::spoilt::Spoilt;

#[test]
fn values_that_are_not_finite_are_refused() {
    // What DEFT's is for, an orthonormal factor, would be finite again.
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

#[test]
fn logits_that_are_not_finite_are_refused() {
    const NAME: &str = "model.layers.0.mlp.up_proj.weight";
    for (value, dtype) in [(f32::NAN, "float32"), (1e5, "float16")] {
        let trial = Spoilt::new("llama-gqa", "lora");
        let mut bytes = fs::read(trial.base_weights()).unwrap();
        let at = data_of(&bytes, NAME).start;
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        fs::write(trial.base_weights(), bytes).unwrap();
        for variant in ["base", "unmerged"] {
            let options = [
                "--prompt-ids",
                "1,2,3",
                "--dtype",
                dtype,
                "--variant",
                variant,
            ];
            let outcome = trial.generate(&options);
            assert_refused(&outcome, &["logits", variant, "not finite", dtype]);
        }
    }
}
