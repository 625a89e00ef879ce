//! Residual weights of PiSSA, OLoRA and KaSA. When PEFT loads such an adapter, it takes a part out
//! of the base's weight and trains that part. The rest, the residual, is quantized like the base's
//! own weights and replaces them for the unmerged adapter.
//!
//! The residual is computed from the full-precision weight. Quantizing the weight first would leave
//! the part's rounding error in it, which the adapter's part doesn't compensate.

use std::path::Path;

use rayon::prelude::*;

use super::PrepareError;
use crate::adapter::{Adapter, AdapterError};
use crate::model::BaseModel;
use crate::quantize::{
    QuantizeError, QuantizedFile, QuantizedTypes, QuantizedWeight, joined_plans, write_matrix,
};
use crate::weights::{BytesPlan, SafetensorsFile, SafetensorsWriter};

/// The residuals of one adapter.
#[derive(Debug)]
pub struct Residuals {
    /// The file.
    pub file: QuantizedFile,
    /// The parameters that they replace.
    pub weights: Vec<(String, QuantizedWeight)>,
}

/// Writes the residuals of the weights of `base` to `path`, named by module paths. `None` if
/// `adapter` takes nothing out.
///
/// # Errors
/// If a weight can't be decomposed, isn't finite, or can't be written.
pub fn write_residuals(
    base: &BaseModel,
    adapter: &Adapter,
    types: QuantizedTypes,
    path: &Path,
) -> Result<Option<Residuals>, PrepareError> {
    let modules = adapter.spec.modules();
    let mut all = Vec::new();
    for module in &modules {
        let residual = adapter.module(&module.path).and_then(|own| own.residual());
        if let (Some(residual), Some(format)) = (residual, base.quantized_to(module)) {
            let size = module.matrix_size().expect("it's a quantized matrix");
            let name = format!("{}.weight", module.path);
            all.push((name, module, residual, format, size));
        }
    }
    if all.is_empty() {
        return Ok(None);
    }
    let plans: Vec<BytesPlan> = all
        .iter()
        .flat_map(|(name, _, _, format, [rows, columns])| {
            joined_plans(&[(name, *format, *rows, *columns)], types.scales)
        })
        .collect();
    let writer = SafetensorsWriter::create_with(path, &plans, &[])?;
    all.par_iter()
        .try_for_each(|(name, module, residual, format, [_, columns])| {
            let weight = base.full_matrix(&format!("{}.weight", module.source))?;
            let left = residual.of(&weight)?;
            let values = left.as_standard_layout();
            let values = values.as_slice().expect("standard layout is contiguous");
            write_matrix(&writer, name, *format, *columns, values, types)
                .map_err(QuantizeError::into_weights)?;
            Ok::<(), AdapterError>(())
        })?;
    writer.finish()?;
    let file = QuantizedFile::of(SafetensorsFile::open(path)?);
    let mut weights = Vec::new();
    for (name, _, _, format, [rows, columns]) in all {
        let weight = file.find(&name, format, rows, columns)?;
        weights.push((name, weight));
    }
    Ok(Some(Residuals { file, weights }))
}
