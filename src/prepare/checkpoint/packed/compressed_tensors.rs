//! compressed-tensors' `pack-quantized`, which Transformers and vLLM read.
//!
//! Instead of `X.weight` there are `X.weight_packed` (int32 `[out_features, in_features · bits /
//! 32]`: the first code of a row in the lowest bits, and each code is the value plus
//! `2^(bits − 1)`), `X.weight_scale` `[out_features, groups]` in the weights' dtype, and
//! `X.weight_shape`. The bytes of codes and scales are those of `MatMulNBits`.
//!
//! Source: compressed-tensors, `compressors/pack_quantized`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Packing, encoded, size};
use crate::quantize::Quantized;
use crate::weights::{BytesPlan, SafetensorsWriter, WeightsError};

/// `quant_method`
pub const NAME: &str = "compressed-tensors";

/// Models whose class in Transformers fails on such weights: their own linear layer reads its
/// `weight`. Other layouts replace the layer.
pub const UNREADABLE: [&str; 1] = ["falcon"];

/// The tensors that replace the weight of `plan`.
pub fn plans(packing: Packing, plan: &BytesPlan) -> Vec<BytesPlan> {
    let [rows, columns] = size(plan);
    let [codes, scales, shape] = names(&plan.name);
    vec![
        BytesPlan {
            name: codes,
            stored: safetensors::Dtype::I32,
            shape: vec![rows, columns * packing.bits / 32],
        },
        BytesPlan {
            name: scales,
            stored: plan.stored,
            shape: vec![rows, columns / packing.group_size],
        },
        BytesPlan {
            name: shape,
            stored: safetensors::Dtype::I64,
            shape: vec![2],
        },
    ]
}

/// Writes the tensors of the weight of `plan`.
///
/// # Errors
/// If writing fails.
pub fn write(
    writer: &SafetensorsWriter,
    plan: &BytesPlan,
    quantized: &Quantized,
) -> Result<(), WeightsError> {
    let [codes, scales, shape] = names(&plan.name);
    writer.write_bytes(&codes, &quantized.codes)?;
    writer.write_bytes(&scales, &encoded(&quantized.scales, plan))?;
    let lengths = size(plan).map(|length| (length as i64).to_le_bytes());
    writer.write_bytes(&shape, lengths.as_flattened())
}

/// The value of `quantization_config`.
pub fn config(packing: Packing, float: &BTreeSet<String>, towers: &BTreeSet<String>) -> Value {
    let towers = towers.iter().map(|part| format!("re:.*{part}.*"));
    let ignore: Vec<String> = float.iter().cloned().chain(towers).collect();
    json!({
        "quant_method": NAME,
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {
                    "num_bits": packing.bits,
                    "type": "int",
                    "symmetric": true,
                    "strategy": "group",
                    "group_size": packing.group_size,
                    "dynamic": false,
                },
                "input_activations": null,
                "output_activations": null,
            },
        },
        "ignore": ignore,
        "kv_cache_scheme": null,
    })
}

/// Names of codes, scales and shape of the weight `name`.
fn names(name: &str) -> [String; 3] {
    ["packed", "scale", "shape"].map(|part| format!("{name}_{part}"))
}
