//! What a path that leads to no adapter was probably meant to be.

use std::path::{Path, PathBuf};

use crate::adapter::folder::{CONFIG, listed, names};
use crate::advice::shell_word;
use crate::json::check::nearest;

/// How deep adapters are looked for in a folder that is none: far enough for a repository in the hub's cache.
const DEPTH: usize = 2;

/// For a path at which there's nothing, with the folder of `experiments`.
pub fn hint(name: &Path, experiments: &Path) -> String {
    if let Some(other) = nearest_path(name) {
        return format!("; did you mean `{}`?", other.display());
    }
    let known: Vec<String> = holders(experiments, CONFIG, DEPTH)
        .iter()
        .filter_map(|path| Some(path.strip_prefix(experiments).ok()?.display().to_string()))
        .collect();
    let asked = name.display().to_string();
    let candidates: Vec<&str> = known.iter().map(String::as_str).collect();
    let last = |candidate: &&&str| candidate.rsplit('/').next() == Some(asked.as_str());
    let meant = candidates.iter().find(last).map(|name| (*name).to_owned());
    match meant.or_else(|| nearest(&asked, &candidates)) {
        Some(other) => format!("; did you mean `{other}`?"),
        None if known.is_empty() => {
            "; name a folder that has an `adapter_config.json`, or an adapter's hub id \
             (`org/name[@revision]`)"
                .to_owned()
        }
        None => format!(
            "; name a folder that has an `adapter_config.json`, an adapter's hub id (`org/name[@revision]`), or one of `{}/`: {}",
            experiments.display(),
            known.join(", ")
        ),
    }
}

/// For a file where a folder is needed.
pub fn hint_for_file(path: &Path) -> String {
    let ends = |end: &str| {
        path.extension()
            .is_some_and(|found| found.eq_ignore_ascii_case(end))
    };
    let folder = path.parent().filter(|folder| folder.join(CONFIG).is_file());
    match folder {
        _ if ends("gguf") => {
            ": it's llama.cpp's form, get the adapter's `adapter_config.json` and `adapter_model.safetensors` that it was made \
             from"
                .to_owned()
        }
        Some(folder) if folder.as_os_str().is_empty() => ": name `.`".to_owned(),
        Some(folder) => format!(": name `{}`", shell_word(folder)),
        None => format!(
            ": put its `{CONFIG}` beside it, and name the folder of both"
        ),
    }
}

/// For a folder that has no configuration of an adapter.
pub fn hint_inside(folder: &Path) -> String {
    let adapters = holders(folder, CONFIG, DEPTH);
    let models = holders(folder, "config.json", DEPTH);
    let words = |paths: &[PathBuf]| {
        let names: Vec<String> = paths.iter().map(|path| shell_word(path)).collect();
        listed(&names)
    };
    match (adapters.as_slice(), models.as_slice()) {
        ([], []) => match names(folder).as_slice() {
            [] => "; it's empty".to_owned(),
            found => format!("; it has {}", listed(found)),
        },
        ([], models) => format!(
            "; it holds folders of checkpoints, name one of them: {}",
            words(models)
        ),
        (adapters, _) => format!(
            "; it holds folders of adapters, name one of them: {}",
            words(adapters)
        ),
    }
}

/// Folders below `folder`, so deep at most, that have a file `name`, sorted by numbers in their names too.
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

/// The path in which the first part that isn't there is replaced by what's nearest to it, where the whole is then a folder.
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
