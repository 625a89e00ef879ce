//! A safetensors file with the tensors of another one, and other values.

use std::path::Path;

use super::PrepareError;
use crate::adapter::AdapterError;
use crate::weights::{SafetensorsFile, SafetensorsWriter, TensorPlan};

/// Writes `target` with names, shapes and dtypes of `source`; `values` makes those of a tensor of its name and of those
/// that it has.
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
