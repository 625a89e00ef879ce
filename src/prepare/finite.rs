//! Whether a base's weights are all numbers: a NaN or an infinity would go through every logit, and be noticed only after
//! a model has run.
//!
//! A pass over the tensors that the model uses, with all threads (some 70 ms a GiB where they're cached, and what it reads
//! the first session needs as well). It's made once for a base, before anything is prepared of it; a stamp in the model's
//! folder says so. Weights that this program has drawn are left out.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use rayon::prelude::*;

use super::{PrepareError, fingerprint};
use crate::files::write_file;
use crate::model::BaseModel;
use crate::weights::{Dtype, TensorView, WeightsError, first_non_finite};

/// The stamp: a hash that changes when the base's files do.
const STAMP: &str = "finite-weights";

/// Bytes that a thread looks through at once.
const CHUNK: usize = 4 << 20;

/// Checks `base`, unless the stamp in `folder` says that it has been checked.
///
/// # Errors
/// If a weight isn't finite, one is missing, or the stamp can't be written.
pub fn check(base: &BaseModel, folder: &Path) -> Result<(), PrepareError> {
    if base.id.is_synthetic() {
        return Ok(());
    }
    let stamp = fingerprint::of_files(base.store.files());
    let path = folder.join(STAMP);
    if fs::read_to_string(&path).is_ok_and(|found| found == stamp) {
        return Ok(());
    }
    let mut seen = BTreeSet::new();
    let mut chunks: Vec<(TensorView, Dtype, usize)> = Vec::new();
    for module in base.spec.modules() {
        for (name, _) in module.parameters() {
            let source = module.tensor(name);
            if !seen.insert(source.clone()) {
                continue;
            }
            let tensor = base.tensor(&source)?;
            let dtype = tensor.dtype()?;
            let starts = (0..tensor.bytes.len()).step_by(CHUNK);
            chunks.extend(starts.map(|start| (tensor.clone(), dtype, start)));
        }
    }
    let found = chunks.par_iter().find_map_first(|(tensor, dtype, start)| {
        let end = tensor.bytes.len().min(start + CHUNK);
        let (index, value) = first_non_finite(&tensor.bytes[*start..end], *dtype)?;
        Some(WeightsError::NonFinite {
            name: tensor.name.to_owned(),
            path: tensor.path.to_owned(),
            index: start / dtype.size() + index,
            value,
        })
    });
    if let Some(error) = found {
        return Err(error.into());
    }
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| PrepareError::Write { path, source }
    };
    fs::create_dir_all(folder).map_err(failed(folder))?;
    write_file(&path, stamp.as_bytes()).map_err(failed(&path))
}
