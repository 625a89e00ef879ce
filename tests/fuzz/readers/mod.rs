//! The readers, and what they share.

mod adapters;
mod graphs;
mod models;
mod own_files;
mod results;
mod sweeps;
mod tokenizers;
mod weights;
mod wheels;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::target::Reader;

/// All readers.
pub const READERS: &[Reader] = &[
    weights::SAFETENSORS,
    weights::INDEX,
    weights::ONNX_ADAPTER,
    models::CONFIG,
    models::PREPARED,
    models::WEIGHTS,
    adapters::CONFIG,
    adapters::FRESH,
    adapters::WEIGHTS,
    tokenizers::TOKENIZER,
    own_files::PARAMETERS,
    own_files::PROMPTS,
    own_files::FILTER,
    results::RESULT,
    results::COMPARED,
    results::PAGE,
    results::QUALITY,
    sweeps::SPEC,
    sweeps::PLAN,
    sweeps::FOLDER,
    graphs::MANIFEST,
    graphs::PREPARED,
    graphs::FOREIGN,
    wheels::WHEEL,
];

/// The reader `name`.
pub fn reader(name: &str) -> &'static Reader {
    let found = READERS.iter().find(|reader| reader.name == name);
    found.unwrap_or_else(|| panic!("there's no reader `{name}`"))
}

/// A path below the project's folder.
fn in_project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A path below the fixtures' folder.
fn fixture(path: &str) -> PathBuf {
    in_project("tests/fixtures").join(path)
}

/// What's in `folder`, in the order of names.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// A folder with links to everything in `from`; any of them can be replaced by a file.
fn linked(from: &Path, to: PathBuf) -> PathBuf {
    fs::create_dir_all(&to).unwrap();
    for path in entries(from) {
        symlink(&path, to.join(path.file_name().unwrap())).unwrap();
    }
    to
}
