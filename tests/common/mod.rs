//! What the tests of the built program share: running it, and making small experiments from the
//! fixtures.

#![allow(dead_code, reason = "each crate of tests uses a part of it")]

pub mod cases;
pub mod reference;
pub mod schema;
pub mod trial;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use peft_bench::weights::{Dtype, SafetensorsFile, SafetensorsWriter, TensorPlan, TensorStore};
use serde_json::{Value, json};

/// The built program.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_peft-bench");

/// A run takes well under a second; one that takes this long has hung.
const PATIENCE: Duration = Duration::from_secs(120);

/// The limit of a run's address space, in KiB, in tests where a size from a file must not be
/// allocated unchecked. A normal run needs a fraction of it.
const ADDRESS_SPACE: u32 = 8 << 20;

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code; `None` if a signal ended the run.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// The error message: the last line on stderr, after any notes.
    pub fn error(&self) -> Option<&str> {
        let (last, notes) = {
            let mut lines: Vec<&str> = self.stderr.lines().collect();
            (lines.pop()?, lines)
        };
        let alone = notes.iter().all(|line| line.starts_with("note: "));
        last.strip_prefix("error: ").filter(|_| alone)
    }
}

/// The program with `args`; more can be added.
pub fn program<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(args);
    command
}

/// The program with `args`, limited to [`ADDRESS_SPACE`].
pub fn limited<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let limited = format!("ulimit -v {ADDRESS_SPACE}; exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command
        .env("MALLOC_ARENA_MAX", "2")
        .args(["-c", &limited, PROGRAM])
        .args(args);
    command
}

/// Checks that a run was refused and that the message contains `words`.
#[track_caller]
pub fn assert_refused(outcome: &Outcome, words: &[&str]) {
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert_eq!(outcome.stdout, "", "{outcome:?}");
    let error = outcome
        .error()
        .unwrap_or_else(|| panic!("not an error in one line: {outcome:?}"));
    for word in words {
        assert!(error.contains(word), "`{word}` is not in `{error}`");
    }
}

/// Runs `command` to completion.
pub fn run(command: &mut Command) -> Outcome {
    let [mut stdout, mut stderr] = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
    let mut child = command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone().unwrap())
        .stderr(stderr.try_clone().unwrap())
        .spawn()
        .unwrap();
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if started.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("{command:?} did not end within {PATIENCE:?}");
        }
        sleep(Duration::from_millis(2));
    };
    Outcome {
        code: status.code(),
        stdout: text(&mut stdout),
        stderr: text(&mut stderr),
    }
}

fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// `tests/fixtures/<part>/…`
fn fixture(parts: &[&str]) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    parts.iter().fold(root, |path, part| path.join(part))
}

/// The folder of a base model.
pub fn model(name: &str) -> PathBuf {
    fixture(&["models", name])
}

/// The folder of a case, an experiment for the base `model`.
pub fn case(model: &str, name: &str) -> PathBuf {
    fixture(&["cases", model, name])
}

/// An adapter with trained values for the model `name`: LoRA, wherever there's such a case.
pub fn trained_adapter(name: &str) -> PathBuf {
    let mut cases = names(&case(name, ""));
    cases.retain(|case| case != "base");
    let usual = |case: &&String| ["lora", "attn"].contains(&case.as_str());
    case(name, cases.iter().find(usual).unwrap_or(&cases[0]))
}

/// Names of what is in `folder`, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<String> = entries
        .map(|entry| name(entry).into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The entries of the folder of `path` whose names begin as `path` ends, such as `lora--lora`: a
/// prepared folder (whose name ends with a hash of the adapter's path), or results.
pub fn called(path: &Path) -> Vec<PathBuf> {
    let (folder, stem) = (path.parent().unwrap(), path.file_name().unwrap());
    let stem = stem.to_str().unwrap();
    let is_called = |name: &String| {
        let rest = name
            .strip_prefix(stem)
            .and_then(|rest| rest.strip_prefix('-'));
        rest.is_some_and(|rest| {
            let hash = rest.get(..8).unwrap_or_default();
            let hashed = hash.len() == 8 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
            let end = rest.get(8..).filter(|_| hashed);
            rest.starts_with('-') || end.is_some_and(|end| end.is_empty() || end.starts_with("--"))
        })
    };
    let mut found = match folder.is_dir() {
        true => names(folder),
        false => Vec::new(),
    };
    found.retain(is_called);
    found.iter().map(|name| folder.join(name)).collect()
}

/// The only entry that [`called`] finds.
#[track_caller]
pub fn only(path: &Path) -> PathBuf {
    let mut found = called(path);
    assert_eq!(found.len(), 1, "{}: {found:?}", path.display());
    found.remove(0)
}

/// All files and folders below `folder`.
pub fn all_below(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    if folder.is_dir() {
        for name in names(folder) {
            let path = folder.join(name);
            all.push(path.clone());
            all.extend(all_below(&path));
        }
    }
    all
}

/// All files below `folder`.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut all = all_below(folder);
    all.retain(|path| path.is_file());
    all
}

/// Copies what is in `from` into a new folder `to`.
pub fn copy_folder(from: &Path, to: &Path) -> PathBuf {
    fs::create_dir_all(to).unwrap();
    for name in names(from) {
        match from.join(&name) {
            folder if folder.is_dir() => _ = copy_folder(&folder, &to.join(&name)),
            file => _ = fs::copy(file, to.join(&name)).unwrap(),
        }
    }
    to.to_owned()
}

/// Removes all files but the configurations from the adapter in `folder` and from adapters below
/// it, and makes the configurations say that they're untrained.
pub fn make_fresh(folder: &Path) {
    for file in files_below(folder) {
        if file.file_name().unwrap() == "adapter_config.json" {
            set_key(&file, "inference_mode", Value::Bool(false));
        } else {
            fs::remove_file(file).unwrap();
        }
    }
}

/// Reads a JSON file.
pub fn read_json(path: &Path) -> Value {
    let text = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Sets `key` in a JSON file.
pub fn set_key(path: &Path, key: &str, value: Value) {
    let mut json = read_json(path);
    json[key] = value;
    fs::write(path, json.to_string()).unwrap();
}

/// Removes `key` from a JSON file.
pub fn remove_key(path: &Path, key: &str) {
    let mut json = read_json(path);
    json.as_object_mut().unwrap().remove(key).unwrap();
    fs::write(path, json.to_string()).unwrap();
}

/// A tensor's shape and its values in float32.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// Reads a safetensors file.
pub fn read_tensors(path: &Path) -> Tensors {
    let file = SafetensorsFile::open(path).unwrap_or_else(|e| panic!("{e:#}"));
    let tensor = |name: &str| {
        let view = file.get(name).unwrap();
        Tensor {
            shape: view.shape.to_vec(),
            values: view.to_f32().unwrap(),
        }
    };
    let names = file.names();
    names
        .iter()
        .map(|name| (name.clone(), tensor(name)))
        .collect()
}

/// Reads a checkpoint's tensors, from one file or from shards.
pub fn read_checkpoint(folder: &Path) -> Tensors {
    let store = TensorStore::open_folder(folder).unwrap();
    store.files().flat_map(read_tensors).collect()
}

/// Writes a safetensors file, rounded to `dtype`.
pub fn write_tensors(path: &Path, tensors: &Tensors, dtype: Dtype) {
    let plans: Vec<TensorPlan> = tensors
        .iter()
        .map(|(name, tensor)| TensorPlan {
            name: name.clone(),
            dtype,
            shape: tensor.shape.clone(),
        })
        .collect();
    let writer = SafetensorsWriter::create(path, &plans).unwrap();
    for (name, tensor) in tensors {
        writer.write(name, &tensor.values).unwrap();
    }
    writer.finish().unwrap();
}

/// Edits the tensors of a float32 safetensors file.
pub fn edit_tensors(path: &Path, change: impl FnOnce(&mut Tensors)) {
    let mut tensors = read_tensors(path);
    change(&mut tensors);
    write_tensors(path, &tensors, Dtype::Float32);
}

/// The largest difference between `actual` and `expected`, relative to the largest expected
/// magnitude. Infinite if either contains a NaN or the lengths differ.
pub fn relative_difference(actual: &[f32], expected: &[f32]) -> f32 {
    let finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
    if actual.len() != expected.len() || !finite(actual) || !finite(expected) {
        return f32::INFINITY;
    }
    let differences = actual.iter().zip(expected).map(|(a, b)| (a - b).abs());
    let scale = expected
        .iter()
        .fold(0.0_f32, |most, value| most.max(value.abs()));
    differences.fold(0.0_f32, f32::max) / scale
}

/// The accuracy that the project promises, as a [`relative_difference`].
pub const TOLERANCE: f32 = 1e-4;

/// A folder with short prompts and parameters for few runs of the fixture model with a tokenizer.
pub fn with_short_runs(runs: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let prompts = json!({
        "short": ["a b"], "medium": ["the cat sat"], "long": ["one two three four five"],
    });
    let config = json!({
        "model_id": "models/llama-gqa",
        "dtype": "float32",
        "seed": 1,
        "max_new_tokens": 4,
        "num_inference_runs": runs,
        "num_prompt_samples": 1,
    });
    let write = |name: &str, value: &Value| {
        fs::write(folder.path().join(name), value.to_string()).unwrap();
    };
    write("prompts.json", &prompts);
    write("config.json", &config);
    // Fixture adapters name their bases relative to this folder.
    std::os::unix::fs::symlink(model(""), folder.path().join("models")).unwrap();
    folder
}
