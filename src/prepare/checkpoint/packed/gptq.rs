//! GPTQ's layout, which Transformers (with GPTQModel and Optimum), vLLM and others read.
//!
//! Instead of `X.weight` there are
//!
//! | tensor      | type, shape                                  |
//! |-------------|----------------------------------------------|
//! | `X.qweight` | int32 `[in · bits / 32, out]`: the codes of an output, the first in the lowest bits |
//! | `X.qzeros`  | int32 `[groups, out · bits / 32]`: the zero points, each less one |
//! | `X.scales`  | `[groups, out]`, in the weights' dtype       |
//! | `X.g_idx`   | int32 `[in]`: each input's group             |
//!
//! All zero points are the middle of the codes. This is a layout alone: codes are those of
//! rounding, not of GPTQ's algorithm.
//!
//! Readers replace every linear layer below the model's list of layers, and no other.
//!
//! Source: GPTQModel, `nn_modules/qlinear`; Optimum, `gptq/quantizer.py`.

use serde_json::{Value, json};

use super::{Packing, encoded, size};
use crate::arch::{DecoderSpec, Module, ModuleKind};
use crate::quantize::Quantized;
use crate::weights::{BytesPlan, SafetensorsWriter, WeightsError};

/// `quant_method`
pub const NAME: &str = "gptq";

/// Why a model with this `spec` can't be packed: readers take every linear layer of its layers for
/// packed.
pub fn refusal(packing: Packing, spec: &DecoderSpec) -> Option<String> {
    const OTHER: &str = "`--packing compressed-tensors` leaves such layers in full precision";
    if spec.tower.is_some() {
        return Some(format!(
            "Transformers reads {NAME} for text models alone, and this `{}` stands in a multimodal one; \
             `--packing compressed-tensors` can be read",
            spec.model_type
        ));
    }
    let in_word = 32 / packing.bits;
    for module in &spec.modules() {
        let ModuleKind::Linear {
            in_features,
            out_features,
            ..
        } = module.kind
        else {
            continue;
        };
        let path = &module.path;
        if !is_in_layers(module, spec) {
            continue;
        }
        if !in_features.is_multiple_of(packing.group_size) {
            return Some(format!(
                "`{path}` has {in_features} inputs, which aren't whole groups of {}, nor of any \
                 other size that all layers share; {OTHER}",
                packing.group_size
            ));
        }
        if !out_features.is_multiple_of(in_word) {
            return Some(format!(
                "`{path}` has {out_features} outputs, and {NAME} packs the zero points of {in_word} together; {OTHER}"
            ));
        }
    }
    None
}

/// Whether `module` is below the model's list of layers.
pub fn is_in_layers(module: &Module, spec: &DecoderSpec) -> bool {
    let own = module.stored_path(spec);
    list_of_layers(spec).is_some_and(|list| {
        own.strip_prefix(&list)
            .is_some_and(|rest| rest.starts_with('.'))
    })
}

/// The path of the model's list of layers: `model.layers`.
fn list_of_layers(spec: &DecoderSpec) -> Option<String> {
    let first = spec.stored_name(&spec.layers.first()?.path);
    Some(first.rsplit_once('.')?.0.to_owned())
}

/// The tensors that replace the weight of `plan`.
pub fn plans(packing: Packing, plan: &BytesPlan) -> Vec<BytesPlan> {
    let [rows, columns] = size(plan);
    let groups = columns / packing.group_size;
    let [codes, zeros, scales, index] = names(&plan.name);
    let of = |name, stored, shape| BytesPlan {
        name,
        stored,
        shape,
    };
    let int = safetensors::Dtype::I32;
    vec![
        of(codes, int, vec![columns * packing.bits / 32, rows]),
        of(zeros, int, vec![groups, rows * packing.bits / 32]),
        of(scales, plan.stored, vec![groups, rows]),
        of(index, int, vec![columns]),
    ]
}

/// Writes the tensors of the weight of `plan`.
///
/// # Errors
/// If writing fails.
pub fn write(
    packing: Packing,
    writer: &SafetensorsWriter,
    plan: &BytesPlan,
    quantized: &Quantized,
) -> Result<(), WeightsError> {
    let [rows, columns] = size(plan);
    let groups = columns / packing.group_size;
    let [codes, zeros, scales, index] = names(&plan.name);
    let words = quantized.codes.as_chunks::<4>().0;
    writer.write_bytes(&codes, transposed(words, rows).as_flattened())?;
    let zero = zero_word(packing.bits).to_le_bytes();
    let all = vec![zero; groups * rows * packing.bits / 32];
    writer.write_bytes(&zeros, all.as_flattened())?;
    let by_group = transposed(&quantized.scales, rows);
    writer.write_bytes(&scales, &encoded(&by_group, plan))?;
    let group_of = |input: usize| ((input / packing.group_size) as i32).to_le_bytes();
    let group_of: Vec<[u8; 4]> = (0..columns).map(group_of).collect();
    writer.write_bytes(&index, group_of.as_flattened())
}

/// A word of zero points in the middle, each stored less one.
fn zero_word(bits: usize) -> u32 {
    let stored = (1_u32 << (bits - 1)) - 1;
    (0..32).step_by(bits).map(|place| stored << place).sum()
}

/// A matrix of so many rows with its axes swapped.
fn transposed<T: Copy>(matrix: &[T], rows: usize) -> Vec<T> {
    let columns = matrix.len() / rows;
    (0..columns)
        .flat_map(|column| (0..rows).map(move |row| matrix[row * columns + column]))
        .collect()
}

/// The value of `quantization_config`.
pub fn config(packing: Packing, spec: &DecoderSpec) -> Value {
    json!({
        "quant_method": NAME,
        "checkpoint_format": NAME,
        "bits": packing.bits,
        "group_size": packing.group_size,
        "desc_act": false,
        "sym": true,
        "lm_head": false,
        // Transformers guesses it for some families.
        "block_name_to_quantize": list_of_layers(spec),
        "meta": { "quantizer": [concat!("peft-bench:", env!("CARGO_PKG_VERSION"))] },
    })
}

/// Names of codes, zero points, scales and groups of the weight `name`.
fn names(name: &str) -> [String; 4] {
    let module = name.strip_suffix(".weight").unwrap_or(name);
    ["qweight", "qzeros", "scales", "g_idx"].map(|part| format!("{module}.{part}"))
}
