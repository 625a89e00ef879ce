//! Names of files and folders: readable, and distinct for distinct models and paths.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::model::ModelId;

/// Hexadecimal digits of a hash in a name.
const DIGITS: usize = 8;

/// The name for a model's folder.
pub fn of_model(id: &ModelId) -> String {
    match id {
        ModelId::Local(path) => of_folder(path),
        ModelId::Hub(_) | ModelId::Synthetic(_) => readable(&id.to_string().replace('/', "--")),
    }
}

/// The name for something made from the folder `path`: its own name and a hash of its full path.
pub fn of_folder(path: &Path) -> String {
    let full = full(path);
    let name = full
        .file_name()
        .map_or("folder".into(), |name| name.to_string_lossy());
    of_place(&name, path)
}

/// `name` followed by a hash of the full `path`, since several paths may end in the same name.
pub fn of_place(name: &str, path: &Path) -> String {
    let digest = short_hash(full(path).as_os_str().as_encoded_bytes());
    format!("{}-{digest}", readable(name))
}

fn full(path: &Path) -> PathBuf {
    fs::canonicalize(path)
        .or_else(|_| std::path::absolute(path))
        .unwrap_or_else(|_| path.to_owned())
}

/// A short SHA-256 digest, for the end of a name.
pub fn short_hash(bytes: &[u8]) -> String {
    let mut digest = hex(&Sha256::digest(bytes));
    digest.truncate(DIGITS);
    digest
}

/// Lower-case hexadecimal digits of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// `text` with every character that's unsafe in a file name replaced by a dash.
pub fn readable(text: &str) -> String {
    let keep = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@');
    text.chars()
        .map(|c| if keep(c) { c } else { '-' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> String {
        of_model(&ModelId::parse(text).unwrap())
    }

    #[test]
    fn hub_and_synthetic_models_keep_their_full_name() {
        assert_eq!(of("synthetic/llama-135m"), "synthetic--llama-135m");
        let hub = ["org/name", "org/name@v1", "org/name-v1", "other/name"];
        assert_eq!(
            hub.map(of),
            ["org--name", "org--name@v1", "org--name-v1", "other--name"]
        );
    }

    #[test]
    fn folders_with_the_same_name_get_distinct_names() {
        let root = tempfile::tempdir().unwrap();
        let [one, other] = ["a/my model", "b/my model"].map(|name| root.path().join(name));
        for folder in [&one, &other] {
            fs::create_dir_all(folder).unwrap();
        }
        let name = of_folder(&one);
        assert!(name.starts_with("my-model-"), "{name}");
        assert_ne!(name, of_folder(&other));
        let around = one.join("../../a/my model");
        assert_eq!(name, of_folder(&around), "it is the same folder");
    }
}
