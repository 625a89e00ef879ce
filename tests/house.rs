//! Holds the rule of the rooms of `src/`: a file imports only its own room and rooms below it.
//!
//! `docs/architecture.md` describes the rooms. A new room needs an entry in `ROOMS`, at its height.

#![expect(clippy::unwrap_used, reason = "a test may unwrap")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms from bottom to top; those in one row don't import each other.
const ROOMS: &[&[&str]] = &[
    &["advice", "decomposition", "files", "machine", "random"],
    &["json", "onnxruntime"],
    &["prompts", "weights"],
    &["arch"],
    &["quantize"],
    &["config", "model"],
    &["file_names", "graph"],
    &["adapter"],
    &["experiment"],
    &["prepared"],
    &["convert", "foreign", "lowering", "prepare"],
    &["audit", "engine"],
    &["parity"],
    &["measure", "portable", "system"],
    &["report"],
    &["judge"],
    &["study"],
    &["sweep"],
    &["cli"],
];

fn height(room: &str) -> Option<usize> {
    ROOMS.iter().position(|line| line.contains(&room))
}

/// The Rust files below `folder`, except test files, which may use any room.
fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if name == "tests" {
            continue;
        }
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The rooms that a file names after `crate::`, outside its tests at the foot.
fn imported(text: &str) -> BTreeSet<&str> {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let code = &text[..end];
    let parts = code.split("crate::").skip(1);
    let names = parts.filter_map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_')?;
        rest[end..].starts_with("::").then_some(&rest[..end])
    });
    names.collect()
}

#[test]
fn files_import_their_own_room_and_rooms_below() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&source, &mut files);
    let mut wrong = Vec::new();
    let mut rooms = BTreeSet::new();
    for path in files {
        let inside = path.strip_prefix(&source).unwrap();
        let first = inside.iter().next().unwrap().to_string_lossy();
        let room = first.trim_end_matches(".rs");
        if room == "main" || room == "lib" {
            continue;
        }
        rooms.insert(room.to_owned());
        let own = height(room).unwrap_or_else(|| panic!("`{room}` is not in `ROOMS`"));
        let text = fs::read_to_string(&path).unwrap();
        for other in imported(&text) {
            let is_below = height(other).is_some_and(|height| height < own);
            if other != room && !is_below {
                wrong.push(format!("{}: `crate::{other}`", inside.display()));
            }
        }
    }
    let listed: BTreeSet<String> = ROOMS
        .iter()
        .flat_map(|line| line.iter().map(|&room| room.to_owned()))
        .collect();
    assert_eq!(rooms, listed, "rooms of `src/`, and rooms of the list");
    assert!(
        wrong.is_empty(),
        "imports of rooms beside or above:\n{}",
        wrong.join("\n")
    );
}
