//! What adapters compute from the weights before they're quantized.

use peft_bench::quantize::Format;
use peft_bench::weights::Dtype;

use crate::common::*;
use crate::quantized_trial::{CLOSE, QuantizedTrial, bound, dequantized, full_precision};

/// PiSSA's, OLoRA's and KaSA's residuals are computed from the full-precision weights and then
/// quantized, so the graph on float weights gets the dequantized residuals.
#[test]
fn residuals_are_computed_before_weights_are_quantized() {
    for (name, format, cases) in [
        (
            "llama-gqa",
            Format::Int4Blocks32,
            &["lora-kasa", "lora-olora", "lora-pissa"][..],
        ),
        ("llama-gqa", Format::Nf4, &["lora-pissa"]),
        (
            "llama-bias",
            Format::Int8Blocks32,
            &["dora-pissa", "lora-alora-olora"],
        ),
    ] {
        let trial = QuantizedTrial::new(name, format);
        for case_name in cases {
            let folder = case(name, case_name);
            let full = full_precision(&trial, &folder);
            let (path, mut tensors) = bound(&trial, &folder, false);
            let mut changed = 0;
            for (key, residual) in &full {
                let Some(module) = key.strip_suffix(".lora.weight") else {
                    continue;
                };
                let [rows, columns] = residual.shape[..] else {
                    panic!("{key}");
                };
                let left = dequantized(residual, format).values;
                let gain = format!("{module}.lora_magnitude_vector");
                if let Some(gains) = tensors.get(&gain) {
                    assert_eq!(gains.shape, [rows]);
                    let magnitudes =
                        &read_tensors(&folder.join("adapter_model.safetensors"))[&gain];
                    let [a, b] =
                        ["A", "B"].map(|part| &tensors[&format!("{module}.lora_{part}.weight")]);
                    let updated = |row: usize| {
                        let at = |column: usize| {
                            let rank = a.shape[0];
                            let product = |k: usize| {
                                b.values[row * rank + k] * a.values[k * columns + column]
                            };
                            left[row * columns + column] + (0..rank).map(product).sum::<f32>()
                        };
                        (0..columns)
                            .map(at)
                            .map(|value| value * value)
                            .sum::<f32>()
                            .sqrt()
                    };
                    let gains = (0..rows).map(|row| magnitudes.values[row] / updated(row));
                    let gains = gains.collect();
                    tensors.get_mut(&gain).unwrap().values = gains;
                }
                tensors.get_mut(key).unwrap().values = left;
                changed += 1;
            }
            assert!(changed >= 4, "{case_name}: {changed}");
            write_tensors(&path, &tensors, Dtype::Float32);
            let found = trial.logits(&folder, "unmerged", true);
            let expected = trial.logits(&folder, "unmerged", false);
            let difference = relative_difference(&found, &expected);
            assert!(
                difference <= CLOSE,
                "{case_name} in {format:?}: {difference:e}"
            );
            let (_, quantized) = bound(&trial, &folder, true);
            assert!(quantized.keys().all(|key| !key.ends_with(".lora.weight")));
        }
    }
}

/// AdaMSS groups rows by the weights that it was trained on; SuperTuning's values belong to the
/// largest elements.
#[test]
fn positions_of_values_are_found_in_the_full_precision_weights() {
    let trial = QuantizedTrial::new("llama-gqa", Format::Int4Blocks32);
    for name in ["adamss", "adamss-one-subspace", "supertuning-unsaved"] {
        let folder = case("llama-gqa", name);
        let full = full_precision(&trial, &folder);
        let (_, quantized) = bound(&trial, &folder, true);
        let stored = read_checkpoint(&model("llama-gqa"));
        let plain = read_checkpoint(&trial.plain());
        assert!(full.len() == quantized.len() && full.len() >= 4);
        for (key, tensor) in &full {
            let module = key.strip_suffix(".supertuning.weight");
            let name = module.map(|module| module.replace("base_model.model.", "") + ".weight");
            let change = |tensor: &Tensor, weights: &Tensors| match &name {
                None => tensor.values.clone(),
                Some(name) => {
                    let pairs = tensor.values.iter().zip(&weights[name].values);
                    pairs.map(|(own, base)| own - base).collect()
                }
            };
            let (expected, found) = (change(tensor, &stored), change(&quantized[key], &plain));
            let difference = relative_difference(&found, &expected);
            assert!(difference <= CLOSE, "{key}: {difference:e}");
        }
    }
}
