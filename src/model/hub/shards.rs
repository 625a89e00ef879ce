//! Which files `model.safetensors.index.json` names. The names come from others, and become paths:
//! they're checked.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde::Deserialize;

use super::HubError;
use crate::files;

#[derive(Deserialize)]
struct Index {
    /// Tensor name to file name.
    weight_map: BTreeMap<String, String>,
}

/// The files that the index at `path` names, each once, in order.
pub(super) fn read(repo: &str, path: &Path) -> Result<BTreeSet<String>, HubError> {
    let bytes = files::read(path).map_err(|source| HubError::Cache {
        path: path.to_owned(),
        source,
    })?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|source| HubError::Index {
        repo: repo.to_owned(),
        path: path.to_owned(),
        source,
    })?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    if shards.is_empty() {
        return Err(HubError::IndexEmpty {
            repo: repo.to_owned(),
            path: path.to_owned(),
        });
    }
    match shards.iter().find(|shard| !is_plain(shard)) {
        Some(file) => Err(HubError::ShardName {
            repo: repo.to_owned(),
            file: file.clone(),
        }),
        None => Ok(shards),
    }
}

/// Whether `name` is a relative path of plain names, on every system.
pub(super) fn is_plain(name: &str) -> bool {
    !name.contains(['\\', ':', '\0']) && files::is_plain(Path::new(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_index(json: &str) -> Result<BTreeSet<String>, HubError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors.index.json");
        std::fs::write(&path, json).unwrap();
        read("org/name", &path)
    }

    #[test]
    fn each_shard_is_named_once() {
        let shards = read_index(
            r#"{"metadata": {}, "weight_map": {"a": "2.safetensors", "b": "1.safetensors", "c": "2.safetensors"}}"#,
        );
        assert_eq!(
            Vec::from_iter(shards.unwrap()),
            ["1.safetensors", "2.safetensors"]
        );
    }

    #[test]
    fn a_name_that_leaves_the_repository_is_refused() {
        for name in [
            "../x",
            "a/../../x",
            "/etc/passwd",
            "",
            ".",
            "./x",
            r"..\\x",
            "C:x",
        ] {
            let result = read_index(&format!(r#"{{"weight_map": {{"a": "{name}"}}}}"#));
            assert!(
                matches!(result, Err(HubError::ShardName { .. })),
                "{name:?}: {result:?}"
            );
        }
    }

    #[test]
    fn a_file_that_is_no_index_is_refused() {
        for json in [
            "",
            "[]",
            "{}",
            r#"{"weight_map": ["a"]}"#,
            r#"{"weight_map": {"a": 1}}"#,
        ] {
            assert!(
                matches!(read_index(json), Err(HubError::Index { .. })),
                "{json}"
            );
        }
        assert!(matches!(
            read_index(r#"{"weight_map": {}}"#),
            Err(HubError::IndexEmpty { .. })
        ));
    }
}
