//! Hints for error messages about paths that don't lead to an adapter.

use std::path::{Path, PathBuf};

use super::built_in;
use crate::adapter::folder::{CONFIG, listed, names};
use crate::advice::shell_word;
use crate::json::check::{nearest, nearest_three};

/// How many levels below a folder adapters are searched for: enough for a repository in the hub's
/// cache.
const DEPTH: usize = 2;

/// The hint for a path that doesn't exist; experiments are looked for in the folder `experiments`,
/// and among those that are built in.
pub fn hint(name: &Path, experiments: &Path) -> String {
    if let Some(other) = nearest_path(name) {
        return format!("; did you mean `{}`?", other.display());
    }
    let asked = name.display().to_string();
    let known = known(experiments);
    let last = |candidate: &&String| candidate.rsplit('/').next() == Some(asked.as_str());
    if let Some(other) = known.iter().find(last) {
        return format!("; did you mean `{other}`?");
    }
    match nearest_of(&asked, &known) {
        None => "; name a folder that has an `adapter_config.json`, or an adapter's hub id \
                 (`org/name[@revision]`)"
            .to_owned(),
        Some(nearest) => format!(
            "; did you mean {nearest}? `peft-bench check` lists {}; a folder that has an `adapter_config.json` and an \
             adapter's hub id (`org/name[@revision]`) are experiments, too",
            match experiments.is_dir() {
                true => format!("`{}/`", experiments.display()),
                false => "those that are built in".to_owned(),
            }
        ),
    }
}

/// The three experiments, in the folder `experiments` or built in, whose names are the most similar,
/// in words; `None` if there are none.
pub fn nearest_experiments(name: &str, experiments: &Path) -> Option<String> {
    nearest_of(name, &known(experiments))
}

fn nearest_of(name: &str, known: &[String]) -> Option<String> {
    let candidates: Vec<&str> = known.iter().map(String::as_str).collect();
    (!candidates.is_empty()).then(|| nearest_three(name, &candidates))
}

/// `<method>/<name>` of the experiments below the folder, then of the built-in ones.
fn known(experiments: &Path) -> Vec<String> {
    let folders = holders(experiments, CONFIG, DEPTH).into_iter();
    let mut names: Vec<String> = folders
        .filter_map(|path| Some(path.strip_prefix(experiments).ok()?.display().to_string()))
        .collect();
    for name in built_in::names() {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The hint for a file where an adapter's folder is expected.
pub fn hint_for_file(path: &Path) -> String {
    let ends = |end: &str| {
        path.extension()
            .is_some_and(|found| found.eq_ignore_ascii_case(end))
    };
    let folder = path.parent().filter(|folder| folder.join(CONFIG).is_file());
    match folder {
        _ if ends("gguf") => {
            ": it's llama.cpp's format; get the `adapter_config.json` and `adapter_model.safetensors` that it was made \
             from"
                .to_owned()
        }
        Some(folder) if folder.as_os_str().is_empty() => ": name `.`".to_owned(),
        Some(folder) => format!(": name `{}`", shell_word(folder)),
        None => format!(
            ": put its `{CONFIG}` into the same folder, and name that folder"
        ),
    }
}

/// The hint for a folder without an `adapter_config.json`.
pub fn hint_inside(folder: &Path) -> String {
    let adapters = holders(folder, CONFIG, DEPTH);
    let models = holders(folder, "config.json", DEPTH);
    let built_in = built_in::experiments();
    let words = |paths: &[PathBuf]| {
        let short = paths
            .iter()
            .map(|path| path.strip_prefix(&built_in).unwrap_or(path));
        let names: Vec<String> = short.map(shell_word).collect();
        listed(&names)
    };
    match (adapters.as_slice(), models.as_slice()) {
        ([], []) => match names(folder).as_slice() {
            [] => "; it's empty".to_owned(),
            found => format!("; it has {}", listed(found)),
        },
        ([], models) => format!(
            "; it contains checkpoint folders, name one of them: {}",
            words(models)
        ),
        (adapters, _) => format!(
            "; it contains adapter folders, name one of them: {}",
            words(adapters)
        ),
    }
}

/// Folders at most `depth` levels below `folder` that have a file `name`, in natural order (`2`
/// before `10`).
fn holders(folder: &Path, name: &str, depth: usize) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for below in names(folder) {
        let path = folder.join(below);
        if !path.is_dir() {
            continue;
        }
        if path.join(name).is_file() {
            found.push(path);
        } else if depth > 1 {
            found.extend(holders(&path, name, depth - 1));
        }
    }
    found.sort_by_cached_key(|path| {
        let text = path.display().to_string();
        let start = text.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        let number: Option<u64> = text[start..].parse().ok();
        (text[..start].to_owned(), number)
    });
    found
}

/// `name` with its first component that doesn't exist replaced by the most similar name; `None`
/// unless the result is a folder.
fn nearest_path(name: &Path) -> Option<PathBuf> {
    let mut found = PathBuf::new();
    for part in name.components() {
        let next = found.join(part);
        if next.is_dir() {
            found = next;
            continue;
        }
        let here = match found.as_os_str().is_empty() {
            true => Path::new("."),
            false => &found,
        };
        let all = names(here);
        let folders: Vec<&str> = all
            .iter()
            .map(String::as_str)
            .filter(|name| here.join(name).is_dir())
            .collect();
        found.push(nearest(&part.as_os_str().to_string_lossy(), &folders)?);
    }
    Some(found)
}
