//! The unmerged variant with an adapter that has no effect: the same graph and shapes, but every
//! tensor holds its neutral value (zeros for terms, ones for factors).
//!
//! Its cost over the base is the price of the graph's shape, whatever the adapter has learnt.
//! Tensors without a neutral value, such as a rotation or a replaced weight, keep their values.

use std::fs;
use std::path::Path;

use super::export::files;
use super::{PrepareError, altered_copy};
use crate::files::temporary_folder;
use crate::prepared::{ADAPTER, Manifest, PreparedVariant};

/// The folder's name; it's next to the folder `unmerged`.
const FOLDER: &str = "unmerged-empty";

/// Prepares the empty variant next to the folder of `unmerged`. `None` for prompt learning, which
/// adds tokens whatever their values.
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
    // The graph refers to weights by paths relative to its folder, so a copy works in a sibling
    // folder.
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
