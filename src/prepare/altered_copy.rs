//! Copies a safetensors file with other values.

use std::path::Path;

use super::PrepareError;
use crate::adapter::AdapterError;
use crate::weights::{SafetensorsFile, SafetensorsWriter, TensorPlan};

/// Writes `target` with the names, shapes and dtypes of `source`. `values` maps a tensor's name and
/// its values to the new ones.
///
/// # Errors
/// If a file can't be read or written.
pub(super) fn write(
    source: &Path,
    target: &Path,
    mut values: impl FnMut(&str, Vec<f32>) -> Vec<f32>,
) -> Result<(), PrepareError> {
    let source = SafetensorsFile::open(source)?;
    let names = source.names();
    let mut plans = Vec::with_capacity(names.len());
    for name in &names {
        let view = source
            .get(name)
            .expect("the file has the names that it lists");
        plans.push(TensorPlan {
            name: name.clone(),
            dtype: view.dtype()?,
            shape: view.shape.to_vec(),
        });
    }
    let writer = SafetensorsWriter::create(target, &plans)?;
    for plan in &plans {
        let view = source
            .get(&plan.name)
            .expect("the file has the names that it lists");
        writer
            .write(&plan.name, &values(&plan.name, view.to_f32()?))
            .map_err(AdapterError::from)?;
    }
    writer.finish()?;
    Ok(())
}
