//! The unmerged variant with an adapter that does nothing: the same graph and shapes, and zeros in every tensor.
//!
//! What it costs against the base is the price of the graph's shape, whatever the adapter has learnt. Factors are
//! ones. What no constant makes do nothing, a rotation or a replaced weight, stays as it is.

use std::fs;
use std::path::Path;

use super::export::files;
use super::{PrepareError, altered_copy};
use crate::files::temporary_folder;
use crate::prepared::{ADAPTER, Manifest, PreparedVariant};

/// The folder's name, beside `unmerged`.
const FOLDER: &str = "unmerged-empty";

/// Prepares the empty variant beside `unmerged`. `None` where there's none: what prompt learning adds is tokens, which
/// are there whatever their values.
///
/// # Errors
/// If a file can't be read or written.
pub fn empty_variant(unmerged: &PreparedVariant) -> Result<Option<PreparedVariant>, PrepareError> {
    let adapter = unmerged.manifest.adapter.as_ref();
    if adapter.is_none_or(|adapter| adapter.prompt.is_some()) {
        return Ok(None);
    }
    let folder = unmerged.folder.with_file_name(FOLDER);
    let mut manifest = unmerged.manifest.clone();
    manifest.fingerprint.push_str("-empty");
    let complete = files(&manifest)
        .iter()
        .all(|file| folder.join(file).is_file());
    let up_to_date = complete
        && Manifest::read(&folder).is_ok_and(|found| found.fingerprint == manifest.fingerprint);
    if !up_to_date {
        write(unmerged, &manifest, &folder)?;
    }
    Ok(Some(PreparedVariant {
        folder,
        manifest,
        up_to_date,
    }))
}

fn write(
    unmerged: &PreparedVariant,
    manifest: &Manifest,
    folder: &Path,
) -> Result<(), PrepareError> {
    let failed = |source| PrepareError::Write {
        path: folder.to_owned(),
        source,
    };
    let partial =
        temporary_folder::create(folder.parent().unwrap_or(Path::new("."))).map_err(failed)?;
    let made = partial.path();
    // The graph refers to weights relative to its folder, and this one is beside the other.
    for file in files(manifest).into_iter().filter(|file| *file != ADAPTER) {
        let path = unmerged.folder.join(file);
        fs::copy(&path, made.join(file)).map_err(|source| PrepareError::Copy { path, source })?;
    }

    let neutral = manifest.adapter.as_ref().map(|adapter| &adapter.neutral);
    altered_copy::write(
        &unmerged.folder.join(ADAPTER),
        &made.join(ADAPTER),
        |name, values| match neutral.and_then(|neutral| neutral.get(name)) {
            Some(&value) => vec![value; values.len()],
            None => values,
        },
    )?;
    manifest.write(made).map_err(failed)?;
    temporary_folder::replace(made, folder).map_err(failed)
}
