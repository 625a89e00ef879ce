//! Quantized weights in a checkpoint, as other programs read them.
//!
//! Weights are merged, rounded to the checkpoint's dtype and then quantized. A layout says which
//! tensors hold the codes and scales, and what `config.json` says of them.

mod compressed_tensors;
mod gptq;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde_json::Value;

use crate::arch::{DecoderSpec, Module, ModuleKind};
use crate::prepare::PrepareError;
use crate::quantize::{Encoding, Format, Quantization, QuantizeError, Quantized, quantize_rows};
use crate::weights::{
    BytesPlan, Dtype, SafetensorsWriter, TensorView, WeightsError, WriteTensorError, encode,
};

/// Number of values that are widened at a time.
const CHUNK: usize = 1 << 20;

/// Models whose class in Transformers reads the weights of its linear layers, which packed ones don't
/// have.
const UNREADABLE: [&str; 1] = ["mamba2"];

/// How quantized weights are stored in a checkpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PackedLayout {
    /// compressed-tensors' `pack-quantized`.
    #[default]
    CompressedTensors,
    /// GPTQ's.
    Gptq,
}

impl PackedLayout {
    /// Its name in messages and in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::CompressedTensors => compressed_tensors::NAME,
            Self::Gptq => gptq::NAME,
        }
    }
}

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
    layout: PackedLayout,
    format: Format,
    bits: usize,
    group_size: usize,
}

impl Packing {
    /// Packing in the format of `quantization`'s weights, for a model with this `spec`.
    ///
    /// # Errors
    /// If the format or the model can't be expressed in `layout`.
    pub fn new(
        layout: PackedLayout,
        quantization: Quantization,
        spec: &DecoderSpec,
    ) -> Result<Self, PrepareError> {
        let format = whole_groups(quantization.weights, spec);
        let refused = |reason: String| Err(PrepareError::NotPackable { reason });
        let Encoding::Even { bits, block_size } = format.encoding() else {
            return refused(format!(
                "{} has no {}; `--quantize 4bit` or `8bit` goes with `--format hf`",
                layout.name(),
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
                    "`{}` is a `Conv1D` in Transformers, and linear layers alone are packed; \
                     `--quantize none` writes the checkpoint in full precision",
                    module.path
                ));
            }
        }
        let own = match layout {
            PackedLayout::CompressedTensors => &compressed_tensors::UNREADABLE[..],
            PackedLayout::Gptq => &[],
        };
        let model_type = spec.model_type.as_str();
        if UNREADABLE.contains(&model_type) || own.contains(&model_type) {
            return refused(format!(
                "Transformers can't load packed `{model_type}` models; `--quantize none` writes the checkpoint in \
                 full precision"
            ));
        }
        let packing = Self {
            layout,
            format,
            bits,
            group_size: block_size,
        };
        let reason = match layout {
            PackedLayout::CompressedTensors => None,
            PackedLayout::Gptq => gptq::refusal(packing, spec),
        };
        reason.map_or(Ok(packing), refused)
    }

    /// Whether the weight of `module` is packed. The head isn't: it may share the embedding's
    /// weight, and inference engines expect it in full precision. Neither are weights whose rows
    /// don't consist of whole groups.
    pub fn packs(self, module: &Module, spec: &DecoderSpec) -> bool {
        match module.kind {
            ModuleKind::Linear { in_features, .. } => {
                let has_place = match self.layout {
                    PackedLayout::CompressedTensors => true,
                    PackedLayout::Gptq => gptq::is_in_layers(module, spec),
                };
                has_place
                    && module.path != spec.lm_head.path
                    && in_features.is_multiple_of(self.group_size)
            }
            _ => false,
        }
    }

    /// The tensors that replace the weight of `plan`.
    pub fn plans(self, plan: &BytesPlan) -> Vec<BytesPlan> {
        match self.layout {
            PackedLayout::CompressedTensors => compressed_tensors::plans(self, plan),
            PackedLayout::Gptq => gptq::plans(self, plan),
        }
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
        let chunks = values.chunks(self.chunk(plan));
        self.write_chunks(writer, plan, chunks.map(|rows| Ok(rows.to_vec())))
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
        let chunks = (0..all)
            .step_by(chunk)
            .map(|first| stored.range_to_f32(first..all.min(first + chunk)));
        self.write_chunks(writer, plan, chunks)
    }

    /// Number of values that are quantized at a time: whole rows.
    fn chunk(self, plan: &BytesPlan) -> usize {
        let [_, columns] = size(plan);
        columns * self.format.rows_at_once(columns, CHUNK)
    }

    /// Writes a weight whose values come some rows at a time. Its codes are kept until all are
    /// there, since GPTQ's order goes through all rows.
    fn write_chunks(
        self,
        writer: &SafetensorsWriter,
        plan: &BytesPlan,
        chunks: impl Iterator<Item = Result<Vec<f32>, WeightsError>>,
    ) -> Result<(), WriteTensorError> {
        let [_, columns] = size(plan);
        let dtype = float_type(plan);
        let mut all = Quantized {
            codes: Vec::new(),
            scales: Vec::new(),
            // Only symmetric formats are packed.
            zeros: Vec::new(),
        };
        let mut first = 0;
        for values in chunks {
            let mut values = values?;
            let place = (first, columns);
            let source = (plan.name.as_str(), writer.path());
            let made = quantize_rows(source, self.format, place, &mut values, dtype)
                .map_err(QuantizeError::into_weights)?;
            first += values.len() / columns;
            all.codes.extend(made.codes);
            all.scales.extend(made.scales);
        }
        let written = match self.layout {
            PackedLayout::CompressedTensors => compressed_tensors::write(writer, plan, &all),
            PackedLayout::Gptq => gptq::write(self, writer, plan, &all),
        };
        Ok(written?)
    }

    /// The value of `quantization_config` in `config.json`, for a model with this `spec`. `float`
    /// are the modules whose weights aren't packed, and `towers` the parts of the model that aren't
    /// its text model.
    pub fn config(
        self,
        spec: &DecoderSpec,
        float: &BTreeSet<String>,
        towers: &BTreeSet<String>,
    ) -> Value {
        match self.layout {
            PackedLayout::CompressedTensors => compressed_tensors::config(self, float, towers),
            PackedLayout::Gptq => gptq::config(self, spec),
        }
    }
}

/// `[out_features, in_features]`
fn size(plan: &BytesPlan) -> [usize; 2] {
    let shape = plan.shape.as_slice();
    shape
        .try_into()
        .expect("a linear layer's weight is a matrix")
}

/// The dtype that the weight of `plan` is rounded to, and its scales are stored in.
fn float_type(plan: &BytesPlan) -> Dtype {
    let dtype = Dtype::from_safetensors(plan.stored);
    dtype.expect("a weight is planned in a float type")
}

/// The bytes of `scales`.
fn encoded(scales: &[f32], plan: &BytesPlan) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(scales, float_type(plan), 0, &mut bytes)
        .expect("no scale is larger than the values of its block, which are finite in that type");
    bytes
}
