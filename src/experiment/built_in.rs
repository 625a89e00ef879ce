//! The shipped experiments. They are built into the program, so that they are found from any folder.
//!
//! An adapter is read from its folder. So when a built-in experiment is used, all of them are
//! written into the cache folder first.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::EXPERIMENTS;
use crate::adapter::folder::CONFIG;
use crate::file_names::short_hash;
use crate::files::cache_dir::{CACHE_VARIABLE, cache_dir};
use crate::files::{is_plain, write_file};

/// Each file's path below `experiments/`, and its content; `build.rs` writes this list.
const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/built_in_experiments.rs"));

/// The built-in experiments can't be written into the cache folder.
#[derive(Debug, Error)]
#[error(
    "cannot write the built-in experiments to `{}`; `{CACHE_VARIABLE}` can name another cache folder",
    path.display()
)]
pub struct BuiltInError {
    /// The file or folder.
    path: PathBuf,
    /// The cause.
    source: io::Error,
}

/// The folder `name` of the built-in experiments, which is written if it isn't there already;
/// `None` if they have no such folder.
///
/// # Errors
/// If it can't be written.
pub fn folder(name: &Path) -> Result<Option<PathBuf>, BuiltInError> {
    let Some(name) = folder_below(name) else {
        return Ok(None);
    };
    let experiments = experiments();
    for (file, text) in FILES {
        let path = experiments.join(file);
        write(&path, text).map_err(|source| BuiltInError { path, source })?;
    }
    Ok(Some(experiments.join(name)))
}

/// Whether the built-in experiments have a folder `name`.
pub fn has(name: &Path) -> bool {
    folder_below(name).is_some()
}

/// `<method>/<name>` of each built-in experiment, sorted.
pub fn names() -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (file, _) in FILES {
        let path = Path::new(file);
        let Some(folder) = path.parent().filter(|_| path.ends_with(CONFIG)) else {
            continue;
        };
        // Experts are below their experiment.
        if !names.iter().any(|name| folder.starts_with(name)) {
            names.push(folder.display().to_string());
        }
    }
    names
}

/// The folder of the built-in experiments, which may not exist yet. Programs with other experiments
/// have another folder.
pub fn experiments() -> PathBuf {
    let all: String = FILES
        .iter()
        .map(|(file, text)| format!("{file}\n{text}\n"))
        .collect();
    let name = format!("built-in-{}", short_hash(all.as_bytes()));
    cache_dir().join(name).join(EXPERIMENTS)
}

/// `name` without a leading `experiments/`, if it's a folder there.
fn folder_below(name: &Path) -> Option<&Path> {
    let below = name.strip_prefix(EXPERIMENTS).unwrap_or(name);
    let mut parents = FILES
        .iter()
        .filter_map(|(file, _)| Path::new(file).parent());
    let is_folder = parents.any(|parent| parent.starts_with(below));
    (is_plain(below) && is_folder).then_some(below)
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    if std::fs::read(path).is_ok_and(|found| found == text.as_bytes()) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    write_file(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_experiment_is_named_with_or_without_its_first_folder() {
        let expected = Some(Path::new("lora/lora_r8"));
        for name in ["lora/lora_r8", "lora/lora_r8/", "experiments/lora/lora_r8"] {
            assert_eq!(folder_below(Path::new(name)), expected, "{name}");
        }
        assert_eq!(folder_below(Path::new("lora")), Some(Path::new("lora")));
    }

    #[test]
    fn other_paths_are_not_built_in() {
        for name in [
            "",
            "experiments",
            "lora/lora",
            "lora/lora_r8/adapter_config.json",
            "./lora/lora_r8",
            "/lora/lora_r8",
            "lora/../lora/lora_r8",
        ] {
            assert!(!has(Path::new(name)), "{name}");
        }
    }

    #[test]
    fn experts_are_no_experiments() {
        let names = names();
        assert!(names.iter().any(|name| name == "lora/lora_r8"));
        assert!(
            !names.iter().any(|name| name.contains("expert_")),
            "{names:?}"
        );
        assert!(has(Path::new("xlora/default/expert_0")) || !has(Path::new("xlora/default")));
    }

    #[test]
    fn a_file_that_was_changed_is_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b.json");
        write(&path, "right").unwrap();
        std::fs::write(&path, "wrong").unwrap();
        write(&path, "right").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "right");
    }
}
