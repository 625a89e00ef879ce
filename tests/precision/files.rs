//! Files of quantized weights: made once, and made again if they're damaged, outdated or
//! incomplete.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use peft_bench::quantize::Format;
use peft_bench::weights::SafetensorsFile;
use serde_json::json;

use crate::common::*;
use crate::reference::{command_for, entries, generate, result_of};

/// The file of quantized weights below `export_dir`.
fn quantized_file(export_dir: &Path) -> PathBuf {
    let mut found = files_below(export_dir);
    found.retain(|path| path.ends_with("quantized.safetensors"));
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[test]
fn quantized_weights_are_made_once_for_all_experiments() {
    let folder = tempfile::tempdir().unwrap();
    let run_case = |name: &str| {
        let mut command = generate(&case("llama-gqa", name), folder.path(), &[3, 4, 5], 2);
        command.arg("--model").arg(model("llama-gqa"));
        run(command.args(["--quantize", "4bit"]))
    };
    assert!(run_case("lora").stderr.contains("quantizing weights"));
    let made = fs::metadata(quantized_file(folder.path()))
        .unwrap()
        .modified()
        .unwrap();
    let second = run_case("dora");
    assert_eq!(second.code, Some(0), "{}", second.stderr);
    assert!(!second.stderr.contains("quantizing"), "{}", second.stderr);
    let file = quantized_file(folder.path());
    assert_eq!(fs::metadata(file).unwrap().modified().unwrap(), made);
}

#[test]
fn a_merge_quantizes_only_what_it_changed() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = program(["prepare", "--variant", "merged", "--quantize", "4bit"]);
    command
        .arg(case("llama-gqa", "lora"))
        .arg("--model")
        .arg(model("llama-gqa"));
    let outcome = run(command.arg("--export-dir").arg(folder.path()));
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let mut found = files_below(folder.path());
    found.retain(|path| path.ends_with("overlay.safetensors"));
    let overlay = SafetensorsFile::open(&found[0]).unwrap();
    let names = overlay.names();
    // Codes and scales of q and v in both layers.
    assert_eq!(names.len(), 8, "{names:?}");
    for name in &names {
        let view = overlay.get(name).unwrap();
        let rows = if name.contains("q_proj") { 64 } else { 32 };
        let format = [Format::Int4, Format::Int8][usize::from(name.contains("v_proj"))];
        let [codes, scales] = format.shapes(rows, 64);
        match name.ends_with(".codes") {
            true => assert_eq!(view.shape, codes),
            false => assert_eq!(view.shape, scales),
        }
    }
}

#[test]
fn a_damaged_file_of_quantized_weights_is_made_again() {
    let (entries, _) = entries();
    let entry = &entries["llama-gqa/4bit/base"];
    let folder = tempfile::tempdir().unwrap();
    let whole = result_of(&mut command_for(entry, folder.path()));
    let path = quantized_file(folder.path());
    let bytes = fs::read(&path).unwrap();
    let damaged: [&[u8]; 4] = [b"", &bytes[..100], &bytes[..bytes.len() - 7], &[0; 64]];
    for damage in damaged {
        fs::write(&path, damage).unwrap();
        assert_eq!(result_of(&mut command_for(entry, folder.path())), whole);
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
    // A complete file with wrong sizes and the right fingerprint.
    let header = String::from_utf8_lossy(&bytes[8..]).into_owned();
    let fingerprint = header.split("\"fingerprint\":\"").nth(1).unwrap();
    let fingerprint = &fingerprint[..fingerprint.find('"').unwrap()];
    let other = json!({ "__metadata__": { "fingerprint": fingerprint } }).to_string();
    let mut small = (other.len() as u64).to_le_bytes().to_vec();
    small.extend(other.as_bytes());
    fs::write(&path, small).unwrap();
    assert_eq!(result_of(&mut command_for(entry, folder.path())), whole);
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn remains_of_an_interrupted_run_are_removed_and_changed_weights_quantized_again() {
    let folder = tempfile::tempdir().unwrap();
    let base = copy_folder(&model("llama-gqa"), &folder.path().join("base"));
    let exports = folder.path().join("exports");
    let made = |command: &mut Command| result_of(command.args(["--quantize", "8bit"]));
    let first = made(&mut generate(&base, &exports, &[3, 4, 5], 3));
    let file = quantized_file(&exports);
    // Of a process on another machine, which ended long ago.
    let left = file.with_file_name(".partial-00000000-1-abc");
    fs::create_dir(&left).unwrap();
    fs::write(left.join("quantized.safetensors"), b"half").unwrap();
    let long_ago = SystemTime::now() - Duration::from_secs(8 * 24 * 3600);
    fs::File::open(&left)
        .unwrap()
        .set_modified(long_ago)
        .unwrap();
    let bytes = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    assert_eq!(made(&mut generate(&base, &exports, &[3, 4, 5], 3)), first);
    assert_eq!(fs::read(&file).unwrap(), bytes);
    assert!(!left.exists());

    edit_tensors(&base.join("model.safetensors"), |tensors| {
        let name = "model.layers.0.self_attn.q_proj.weight";
        tensors
            .get_mut(name)
            .unwrap()
            .values
            .iter_mut()
            .for_each(|value| *value *= 2.0);
    });
    assert_ne!(made(&mut generate(&base, &exports, &[3, 4, 5], 3)), first);
    assert_ne!(fs::read(&file).unwrap(), bytes);
}
