//! Fingerprints: hashes of everything that a prepared folder depends on.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::UNIX_EPOCH;

use sha2::{Digest, Sha256};

use super::Preparation;
use crate::adapter::folder::files;
use crate::adapter::{ValuesFrom, expert_folders};
use crate::arch::LatentCache;
use crate::experiment::Experiment;
use crate::file_names::hex;
use crate::prepared::Variant;

/// Increased whenever graphs or merges change, so that older folders are prepared again.
pub const REVISION: u32 = 22;

/// A hash of everything that the folder of `variant` is made from. Large files are represented by
/// path, size and modification time.
pub fn fingerprint(
    preparation: &Preparation,
    experiment: Option<&Experiment>,
    variant: Variant,
) -> String {
    // Requantizing is a matter of merges alone.
    let requantize = variant == Variant::Merged && preparation.precision.base.requantize;
    let precision = preparation.requantized(requantize).precision;
    let mut text = format!(
        "{} {REVISION} {variant} {precision:?} {}\n",
        env!("CARGO_PKG_VERSION"),
        preparation.base.config.json(),
    );
    if preparation.base.spec.latent_cache() == Some(LatentCache::Compressed) {
        let _ = writeln!(text, "mla compressed");
    }
    for file in preparation.base.store.files() {
        describe(&mut text, file);
    }
    if variant == Variant::Unmerged {
        let _ = writeln!(text, "{:?}", preparation.adapter_form);
    }
    if let Some(experiment) = experiment {
        let _ = writeln!(text, "{} {}", experiment.file_stem(), preparation.seed);
        if experiment.values == ValuesFrom::Fresh {
            let _ = writeln!(text, "fresh");
        }
        if let Some(task) = preparation.task_id {
            let _ = writeln!(text, "task {task}");
        }
        let experts = expert_folders(&experiment.folder);
        for folder in std::iter::once(&experiment.folder).chain(&experts) {
            for file in files(folder) {
                describe(&mut text, &file);
            }
        }
    }
    hex(&Sha256::digest(text.as_bytes()))
}

/// A hash of the paths, sizes and modification times of `files`.
pub fn of_files<'a>(files: impl Iterator<Item = &'a Path>) -> String {
    let mut text = String::new();
    for file in files {
        describe(&mut text, file);
    }
    hex(&Sha256::digest(text.as_bytes()))
}

/// Appends a line that changes when the file changes.
fn describe(text: &mut String, file: &Path) {
    let path = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let metadata = fs::metadata(&path).ok();
    let size = metadata.as_ref().map(fs::Metadata::len);
    let modified = metadata.and_then(|metadata| metadata.modified().ok());
    let since = modified.map(|time| time.duration_since(UNIX_EPOCH));
    let path = path.display();
    let _ = match since {
        // By a clock that was wrong.
        Some(Err(before)) => writeln!(text, "{path} {size:?} -{:?}", before.duration()),
        since => writeln!(text, "{path} {size:?} {:?}", since.and_then(Result::ok)),
    };
}
