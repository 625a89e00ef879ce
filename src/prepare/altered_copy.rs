//! Copies adapters with other values.

use std::path::Path;

use super::PrepareError;
use crate::adapter::AdapterError;
use crate::prepared::{ADAPTER, PreparedVariant};
use crate::weights::{SafetensorsFile, SafetensorsWriter, TensorPlan};

/// Writes `count` copies of the adapter of `unmerged` below `folder`, with names that begin with
/// `begin`. They have no graph of their own. `values` maps a tensor's name and its values to the new
/// ones.
///
/// # Errors
/// If a file can't be read or written.
pub(super) fn several(
    unmerged: &PreparedVariant,
    count: usize,
    folder: &Path,
    begin: &str,
    mut values: impl FnMut(&str, Vec<f32>) -> Vec<f32>,
) -> Result<Vec<PreparedVariant>, PrepareError> {
    let source = unmerged.folder.join(ADAPTER);
    let mut others = Vec::with_capacity(count);
    for index in 0..count {
        let folder = folder.join(format!("{begin}{index}"));
        std::fs::create_dir_all(&folder).map_err(|source| PrepareError::Write {
            path: folder.clone(),
            source,
        })?;
        write(&source, &folder.join(ADAPTER), &mut values)?;
        others.push(PreparedVariant {
            folder,
            ..unmerged.clone()
        });
    }
    Ok(others)
}

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
