//! Results as files: every version of them is read, and written as it was; `report` prints what
//! `measure` printed.
//!
//! `tests/fixtures/results/README.md` says where the files come from.

#![expect(clippy::unwrap_used, reason = "a test may unwrap")]

#[path = "../common/mod.rs"]
mod common;

mod command;
mod comparing;
mod hostile;
mod metamathqa;
mod printed;
mod quality;
mod reading;
mod rows;

use std::path::{Path, PathBuf};

/// The results below `folder` of the fixtures.
fn results(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/results")
        .join(folder);
    let mut found: Vec<PathBuf> = common::names(&folder)
        .iter()
        .filter(|name| name.ends_with(".json"))
        .map(|name| folder.join(name))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "{}", folder.display());
    found
}

/// All of them.
fn all_results() -> Vec<PathBuf> {
    ["earlier", "alone", "together"]
        .into_iter()
        .flat_map(results)
        .collect()
}
