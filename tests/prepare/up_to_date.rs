//! Folders that are up to date aren't touched; others are prepared again.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::reference::{Bench, assert_apart, assert_close};
use crate::common::{copy_folder, edit_tensors, files_below, set_key};

/// Each file below `folder`, by its path, with its modification time and inode.
fn stamps(folder: &Path) -> Vec<(PathBuf, std::time::SystemTime, u64)> {
    use std::os::unix::fs::MetadataExt;
    let stamp = |path: PathBuf| {
        let metadata = fs::metadata(&path).unwrap();
        (path, metadata.modified().unwrap(), metadata.ino())
    };
    files_below(folder).into_iter().map(stamp).collect()
}

#[test]
fn what_is_up_to_date_is_not_touched() {
    let bench = Bench::new("llama-tied", "lora");
    let first = bench.prepare();
    assert!(!first.contains("up to date"), "{first}");
    let before = stamps(bench.exported.path());
    let second = bench.prepare();
    assert_eq!(second.matches("up to date").count(), 3, "{second}");
    bench.generate("merged", &[]);
    assert_eq!(stamps(bench.exported.path()), before);
    // And the stamp next to the three folders.
    assert_eq!(before.len(), 2 + 3 + 3 + 1, "{before:?}");
}

#[test]
fn a_changed_adapter_is_prepared_again() {
    let mut bench = Bench::new("llama-gqa", "lora");
    let copy = tempfile::tempdir().unwrap();
    bench.folder = copy_folder(&bench.folder, &copy.path().join("changed"));
    bench.prepare();
    let variants = ["unmerged", "merged"];
    let before = variants.map(|variant| bench.generate(variant, &[]));

    edit_tensors(&bench.folder.join("adapter_model.safetensors"), |tensors| {
        for (name, tensor) in tensors {
            if name.contains("lora_B") {
                tensor.values.iter_mut().for_each(|value| *value *= -1.5);
            }
        }
    });
    let said = bench.prepare();
    let up_to_date: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("up to date"))
        .collect();
    assert_eq!(up_to_date.len(), 1, "{said}");
    assert!(up_to_date[0].starts_with("base"), "{said}");
    let [unmerged, merged] = variants.map(|variant| bench.generate(variant, &[]));
    assert_apart(&unmerged, &before[0]);
    assert_apart(&merged, &before[1]);
    assert_close(&merged, &unmerged);

    set_key(
        &bench.folder.join("adapter_config.json"),
        "lora_alpha",
        1.into(),
    );
    assert_apart(&bench.generate("merged", &[]), &merged);
}

#[test]
fn a_changed_base_is_prepared_again() {
    let mut bench = Bench::new("llama-gqa", "lora");
    let copy = tempfile::tempdir().unwrap();
    bench.model = copy_folder(&bench.model, &copy.path().join("changed"));
    let variants = ["base", "unmerged", "merged"];
    let before = variants.map(|variant| bench.generate(variant, &[]));
    edit_tensors(&bench.model.join("model.safetensors"), |tensors| {
        let weight = tensors
            .get_mut("model.layers.1.mlp.down_proj.weight")
            .unwrap();
        weight.values.iter_mut().for_each(|value| *value *= 0.5);
    });
    for (variant, before) in variants.into_iter().zip(before) {
        assert_apart(&bench.generate(variant, &[]), &before);
    }
    set_key(
        &bench.model.join("config.json"),
        "rms_norm_eps",
        Value::from(0.5),
    );
    let said = bench.prepare();
    assert!(!said.contains("up to date"), "{said}");
}
