//! Quantized weights in a checkpoint: compressed-tensors' `pack-quantized`, which Transformers and
//! vLLM read.
//!
//! Instead of `X.weight` there are `X.weight_packed` (int32 `[out_features, in_features · bits /
//! 32]`: the first code of a row in the lowest bits, and each code is the value plus
//! `2^(bits − 1)`), `X.weight_scale` `[out_features, groups]` in the weights' dtype, and
//! `X.weight_shape`. The bytes of codes and scales are those of `MatMulNBits`.
//!
//! Source: compressed-tensors, `compressors/pack_quantized`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::arch::{DecoderSpec, Module, ModuleKind};
use crate::prepare::PrepareError;
use crate::quantize::{
    Encoding, Format, Quantization, QuantizeError, QuantizedNames, QuantizedTypes, write_rows,
};
use crate::weights::{BytesPlan, Dtype, SafetensorsWriter, TensorView, WriteTensorError};

/// Number of values that are widened at a time.
const CHUNK: usize = 1 << 20;

/// Models whose class in Transformers fails on packed weights: their own linear layer has no
/// `weight` then.
const UNREADABLE: [&str; 1] = ["falcon"];

/// `format` in the largest blocks of at most its size of which the rows of all linear layers
/// consist, so that none stays unpacked; `format` where there are none.
fn whole_groups(format: Format, spec: &DecoderSpec) -> Format {
    let columns = |module: &Module| match module.kind {
        ModuleKind::Linear { in_features, .. } => Some(in_features),
        _ => None,
    };
    let columns: Vec<usize> = spec.modules().iter().filter_map(columns).collect();
    format.in_whole_blocks(&columns)
}

/// How a checkpoint's linear layers are packed.
#[derive(Debug, Clone, Copy)]
pub struct Packing {
    format: Format,
    bits: usize,
    group_size: usize,
}

impl Packing {
    /// Packing in the format of `quantization`'s weights, for a model with this `spec`.
    ///
    /// # Errors
    /// If the format or the model can't be expressed as `pack-quantized`.
    pub fn new(quantization: Quantization, spec: &DecoderSpec) -> Result<Self, PrepareError> {
        let format = whole_groups(quantization.weights, spec);
        let refused = |reason: String| Err(PrepareError::NotPackable { reason });
        let Encoding::Even { bits, block_size } = format.encoding() else {
            return refused(format!(
                "compressed-tensors has no {}; `--quantize 4bit` or `8bit` goes with `--format hf`",
                format.name()
            ));
        };
        if !format.is_symmetric() {
            return refused(format!(
                "{} has zero points, which aren't written here; `--quantize-algorithm rtn` goes with \
                 `--format hf`",
                format.name()
            ));
        }
        if UNREADABLE.contains(&spec.model_type.as_str()) {
            return refused(format!(
                "Transformers can't load packed `{}` models; `--quantize none` writes the checkpoint \
                 in full precision",
                spec.model_type
            ));
        }
        for module in &spec.modules() {
            let is_expert =
                matches!(module.kind, ModuleKind::Routed { .. }) && !spec.is_router(&module.path);
            if is_expert {
                return refused(format!(
                    "Transformers stacks the experts' weights (`{}`) and packs linear layers alone; \
                     `--quantize none` writes the checkpoint in full precision",
                    module.path
                ));
            }
            if module.is_stored_in_out() {
                return refused(format!(
                    "`{}` is a `Conv1D` in Transformers, which packs linear layers alone; \
                     `--quantize none` writes the checkpoint in full precision",
                    module.path
                ));
            }
        }
        Ok(Self {
            format,
            bits,
            group_size: block_size,
        })
    }

    /// Whether the weight of `module` is packed. The head isn't: it may share the embedding's
    /// weight, and inference engines expect it in full precision. Neither are weights whose rows
    /// don't consist of whole groups.
    pub fn packs(self, module: &Module, spec: &DecoderSpec) -> bool {
        match module.kind {
            ModuleKind::Linear { in_features, .. } => {
                module.path != spec.lm_head.path && in_features.is_multiple_of(self.group_size)
            }
            _ => false,
        }
    }

    /// The tensors that replace the weight of `plan`.
    pub fn plans(self, plan: &BytesPlan) -> Vec<BytesPlan> {
        let [rows, columns] = size(plan);
        let [codes, scales, shape] = names(&plan.name);
        vec![
            BytesPlan {
                name: codes,
                stored: safetensors::Dtype::I32,
                shape: vec![rows, columns * self.bits / 32],
            },
            BytesPlan {
                name: scales,
                stored: plan.stored,
                shape: vec![rows, columns / self.group_size],
            },
            BytesPlan {
                name: shape,
                stored: safetensors::Dtype::I64,
                shape: vec![2],
            },
        ]
    }

    /// Quantizes and writes all `values` of the weight of `plan`, after rounding them to the
    /// weight's dtype.
    ///
    /// # Errors
    /// If a rounded value isn't finite, or writing fails.
    pub fn write(
        self,
        writer: &SafetensorsWriter,
        plan: &BytesPlan,
        values: &[f32],
    ) -> Result<(), WriteTensorError> {
        for (index, rows) in values.chunks(self.chunk(plan)).enumerate() {
            self.write_chunk(writer, plan, index, rows.to_vec())?;
        }
        self.write_shape(writer, plan)
    }

    /// Does what [`write`](Self::write) does with the values of `stored`.
    ///
    /// # Errors
    /// As [`write`](Self::write), or if `stored` has no float type.
    pub fn write_stored(
        self,
        writer: &SafetensorsWriter,
        plan: &BytesPlan,
        stored: &TensorView,
    ) -> Result<(), WriteTensorError> {
        stored.dtype()?;
        let (chunk, all) = (self.chunk(plan), stored.elements());
        for (index, first) in (0..all).step_by(chunk).enumerate() {
            let values = stored.range_to_f32(first..all.min(first + chunk))?;
            self.write_chunk(writer, plan, index, values)?;
        }
        self.write_shape(writer, plan)
    }

    /// Number of values that are quantized at a time: whole rows.
    fn chunk(self, plan: &BytesPlan) -> usize {
        let [_, columns] = size(plan);
        columns * self.format.rows_at_once(columns, CHUNK)
    }

    fn write_chunk(
        self,
        writer: &SafetensorsWriter,
        plan: &BytesPlan,
        index: usize,
        mut values: Vec<f32>,
    ) -> Result<(), WriteTensorError> {
        let [_, columns] = size(plan);
        let dtype = Dtype::from_safetensors(plan.stored);
        let dtype = dtype.expect("a weight is planned in a float type");
        let types = QuantizedTypes {
            weights: dtype,
            scales: dtype,
        };
        let [codes, scales, _] = names(&plan.name);
        let names = QuantizedNames {
            weight: plan.name.clone(),
            codes,
            scales,
            // Only symmetric formats are packed.
            zeros: String::new(),
        };
        let first = index * self.chunk(plan) / columns;
        let place = (first, columns);
        write_rows(writer, &names, self.format, place, &mut values, types)
            .map_err(QuantizeError::into_weights)?;
        Ok(())
    }

    fn write_shape(
        self,
        writer: &SafetensorsWriter,
        plan: &BytesPlan,
    ) -> Result<(), WriteTensorError> {
        let [_, _, name] = names(&plan.name);
        let shape = size(plan).map(|length| (length as i64).to_le_bytes());
        Ok(writer.write_bytes(&name, shape.as_flattened())?)
    }

    /// The value of `quantization_config` in `config.json`. `float` are the modules whose weights
    /// aren't packed, and `towers` the parts of the model that aren't its text model.
    pub fn config(self, float: &BTreeSet<String>, towers: &BTreeSet<String>) -> Value {
        let towers = towers.iter().map(|part| format!("re:.*{part}.*"));
        let ignore: Vec<String> = float.iter().cloned().chain(towers).collect();
        json!({
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": {
                        "num_bits": self.bits,
                        "type": "int",
                        "symmetric": true,
                        "strategy": "group",
                        "group_size": self.group_size,
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
}

/// `[out_features, in_features]`
fn size(plan: &BytesPlan) -> [usize; 2] {
    let shape = plan.shape.as_slice();
    shape
        .try_into()
        .expect("a linear layer's weight is a matrix")
}

/// Names of codes, scales and shape of the weight `name`.
fn names(name: &str) -> [String; 3] {
    ["packed", "scale", "shape"].map(|part| format!("{name}_{part}"))
}
