//! A quantized model, and a plain float32 checkpoint of the dequantized weights. With float32
//! arithmetic (`--quantize-accuracy 1`) both compute the same numbers, summed in another order.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use peft_bench::quantize::{Format, QuantizedFile};
use peft_bench::weights::SafetensorsFile;
use serde_json::{Value, json};

use crate::common::*;

/// Tolerance for float32 sums in another order, a few layers deep.
pub const CLOSE: f32 = 5e-5;

/// The least effect of an adapter, or of a wrong weight.
pub const APART: f32 = 2e-3;

/// The name of the embedding's tensor.
pub const EMBEDDING: &str = "model.embed_tokens.weight";

/// A model quantized with some options, and its plain counterpart.
pub struct QuantizedTrial {
    pub root: tempfile::TempDir,
    pub name: String,
    pub options: Vec<String>,
    pub format: Format,
    pub head: Option<Format>,
    /// Of keys and values.
    pub kv_proj: Format,
    pub embedding: Option<Format>,
    /// Options for all runs.
    pub more: &'static [&'static str],
}

impl QuantizedTrial {
    /// Quantizes the model `name`, and writes a checkpoint of the dequantized weights.
    pub fn new(name: &str, format: Format) -> Self {
        Self::with_embedding(name, format, None)
    }

    /// Like [`new`](Self::new), with a quantized embedding.
    pub fn with_embedding(name: &str, format: Format, embedding: Option<Format>) -> Self {
        let head = (format != Format::Nf4).then_some(format);
        Self::of(
            name,
            format,
            [head, Some(format), embedding],
            options_of(format),
        )
    }

    /// Like [`new`](Self::new), as `--quantize 4bit` alone has it.
    pub fn usual(name: &str) -> Self {
        let parts = [Some(Format::Int8), Some(Format::Int8), None];
        let options = ["--quantize", "4bit"].map(str::to_owned);
        Self::of(name, Format::Int4, parts, options.to_vec())
    }

    fn of(
        name: &str,
        format: Format,
        [head, kv_proj, embedding]: [Option<Format>; 3],
        mut options: Vec<String>,
    ) -> Self {
        if let Some(embedding) = embedding {
            options.extend(["--quantize-embedding", embedding.name()].map(str::to_owned));
        }
        if format != Format::Nf4 {
            options.extend(["--quantize-accuracy", "1"].map(str::to_owned));
        }
        let trial = Self {
            root: tempfile::tempdir().unwrap(),
            name: name.to_owned(),
            format,
            head,
            kv_proj: kv_proj.unwrap_or(format),
            embedding,
            more: &[],
            options,
        };
        let mut command = program(["prepare", "--variant", "base", "--ep", "cpu"]);
        command
            .arg(case(name, "lora"))
            .arg("--model")
            .arg(model(name));
        let exports = trial.root.path().join("quantized");
        command
            .arg("--export-dir")
            .arg(&exports)
            .args(&trial.options);
        let outcome = run(&mut command);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        trial.write_plain();
        trial
    }

    /// The file of quantized weights.
    pub fn file(&self) -> PathBuf {
        let mut found = files_below(&self.root.path().join("quantized"));
        found.retain(|path| path.ends_with("quantized.safetensors"));
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    /// The checkpoint of the dequantized weights.
    pub fn plain(&self) -> PathBuf {
        self.root.path().join("plain")
    }

    pub fn write_plain(&self) {
        let plain = copy_folder(&model(&self.name), &self.plain());
        let all = SafetensorsFile::open(&self.file()).unwrap();
        let keys: Vec<String> = all
            .names()
            .iter()
            .filter_map(|name| Some(name.strip_suffix(".codes")?.to_owned()))
            .collect();
        assert!(!keys.is_empty());
        let file = QuantizedFile::of(all);
        edit_tensors(&plain.join("model.safetensors"), |tensors| {
            for key in keys {
                let names: Vec<&String> = tensors.keys().collect();
                let stored = names.into_iter().find(|name| key.ends_with(name.as_str()));
                let stored = stored.cloned();
                let [rows, columns] = match &stored {
                    Some(name) => tensors[name].shape.clone().try_into().unwrap(),
                    // A tied head with its own copy.
                    None => {
                        set_key(
                            &plain.join("config.json"),
                            "tie_word_embeddings",
                            json!(false),
                        );
                        tensors[EMBEDDING].shape.clone().try_into().unwrap()
                    }
                };
                let name = stored.unwrap_or_else(|| key.clone());
                let format = match key.as_str() {
                    "lm_head.weight" => self.head.unwrap(),
                    other if other.ends_with("embed_tokens.weight") => self.embedding.unwrap(),
                    other if other.contains("k_proj") || other.contains("v_proj") => self.kv_proj,
                    _ => self.format,
                };
                let in_out =
                    self.name == "gpt2" && !key.contains("wte") && !key.contains("lm_head");
                let values = match in_out {
                    false => file.dequantize(&key, format, rows, columns).unwrap(),
                    true => {
                        let transposed = file.dequantize(&key, format, columns, rows).unwrap();
                        let place = |at: usize| transposed[at % columns * rows + at / columns];
                        (0..rows * columns).map(place).collect()
                    }
                };
                let shape = vec![rows, columns];
                tensors.insert(name, Tensor { shape, values });
            }
        });
    }

    /// The logits of `variant` of a case, on the quantized model or on the plain checkpoint.
    pub fn logits(&self, target: &Path, variant: &str, quantized: bool) -> Vec<f32> {
        let command = self.command("generate", target, quantized);
        self.logits_of(command, target, variant)
    }

    /// The logits of the checkpoint `plain` itself, for a case's prompt.
    pub fn over(&self, plain: &Path, target: &Path) -> Vec<f32> {
        let mut command = program(["generate", "--ep", "cpu", "--threads", "1"]);
        command
            .arg(plain)
            .arg("--export-dir")
            .arg(plain.join("exports"));
        self.logits_of(command, target, "base")
    }

    pub fn logits_of(&self, mut command: Command, target: &Path, variant: &str) -> Vec<f32> {
        let about = read_json(&target.join("case.json"));
        let ids: Vec<String> = about["prompt_ids"]
            .as_array()
            .unwrap()
            .iter()
            .map(Value::to_string)
            .collect();
        command.args(["--variant", variant, "--prompt-ids", &ids.join(",")]);
        if let (Some(task), true) = (about["task_id"].as_u64(), variant != "base") {
            command.args(["--task-id", &task.to_string()]);
        }
        logits(command.args(["--max-new-tokens", "4"]))
    }

    pub fn command(&self, command: &str, target: &Path, quantized: bool) -> Command {
        let mut command = program([command, "--ep", "cpu", "--threads", "1"]);
        command.arg(target).args(self.more);
        match quantized {
            true => command
                .arg("--model")
                .arg(model(&self.name))
                .args(&self.options),
            false => command.arg("--model").arg(self.plain()),
        };
        let exports = ["plain-exports", "quantized"][usize::from(quantized)];
        command
            .arg("--export-dir")
            .arg(self.root.path().join(exports));
        command
    }

    /// A copy of a case, without the base's embedding and head, which PEFT may save with the
    /// adapter: they would replace the dequantized ones.
    pub fn case(&self, name: &str) -> PathBuf {
        let copy = self.root.path().join("cases").join(name);
        if !copy.is_dir() {
            copy_folder(&case(&self.name, name), &copy);
            let weights = copy.join("adapter_model.safetensors");
            if weights.is_file() && self.embedding.is_some() {
                edit_tensors(&weights, |tensors| {
                    tensors.retain(|key, _| !key.ends_with(".base_layer.weight"));
                });
            }
        }
        copy
    }

    /// What's wrong with the unmerged variant of `name` on quantized weights; `None` if nothing is.
    pub fn fault(&self, name: &str) -> Option<String> {
        let case = self.case(name);
        let quantized = self.logits(&case, "unmerged", true);
        let plain = self.logits(&case, "unmerged", false);
        // The first row: later ones may follow another token.
        let first = quantized.len() / 4;
        let difference = relative_difference(&quantized, &plain);
        let config = read_json(&model(&self.name).join("config.json"));
        let effect = match config["vocab_size"].as_u64() == Some(first as u64) {
            true => {
                let base = self.logits(&case, "base", false);
                relative_difference(&quantized[..first], &base[..first])
            }
            // The case has another vocabulary, so the base can't read its prompt.
            false => f32::INFINITY,
        };
        let acts = effect > APART || WITHOUT_EFFECT.contains(&name);
        (difference > CLOSE || !acts).then(|| {
            let (model, format) = (&self.name, self.format.name());
            format!("{model}/{name} in {format}: {difference:e} off, {effect:e} from the base")
        })
    }
}

/// The options that lead to `format` everywhere.
fn options_of(format: Format) -> Vec<String> {
    let mut options = options_of_layers(format);
    if format != Format::Nf4 {
        options.extend(["--quantize-head", format.name()].map(str::to_owned));
    }
    options
}

/// The options that lead to `format` in all layers but the head.
pub fn options_of_layers(format: Format) -> Vec<String> {
    if format == Format::Nf4 {
        return ["--quantize", "nf4"].map(str::to_owned).to_vec();
    }
    let encoding = format.encoding();
    let named = format!("{}bit", encoding.bits());
    let block_size = encoding.block_size().to_string();
    let mut options = vec!["--quantize", &named, "--quantize-block", &block_size];
    if encoding.bits() == 4 {
        options.extend(["--quantize-algorithm", format.keys().scheme]);
    }
    options.extend(["--quantize-kv-proj", format.name()]);
    options.into_iter().map(str::to_owned).collect()
}

/// Cases whose adapter must have no effect on their prompt.
const WITHOUT_EFFECT: [&str; 1] = ["lora-alora-absent"];

#[track_caller]
fn logits(command: &mut Command) -> Vec<f32> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("logits.safetensors");
    let outcome = run(command.arg("--logits").arg(&path));
    assert_eq!(outcome.code, Some(0), "{command:?}: {}", outcome.stderr);
    read_tensors(&path).remove("logits").unwrap().values
}

/// The dequantized matrix.
pub fn dequantized(matrix: &Tensor, format: Format) -> Tensor {
    let [rows, columns] = matrix.shape[..] else {
        panic!("{:?} is no matrix", matrix.shape);
    };
    let made = format.quantize(&matrix.values, columns);
    Tensor {
        shape: matrix.shape.clone(),
        values: format.dequantize(&made, rows, columns),
    }
}

/// Checks `cases` two at a time.
#[track_caller]
pub fn check(trial: &QuantizedTrial, cases: &[String]) {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut faults = Vec::new();
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            faults.extend(trial.fault(case));
        }
        faults
    };
    let faults = std::thread::scope(|scope| {
        let workers = [scope.spawn(work), scope.spawn(work)];
        workers.map(|worker| worker.join().unwrap()).concat()
    });
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The tensors that are bound to the unmerged graph of `target`.
pub fn bound(trial: &QuantizedTrial, target: &Path, quantized: bool) -> (PathBuf, Tensors) {
    let mut command = trial.command("prepare", target, quantized);
    let outcome = run(command.args(["--variant", "unmerged"]));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let exports = ["plain-exports", "quantized"][usize::from(quantized)];
    let mut found = files_below(&trial.root.path().join(exports));
    let name = target.file_name().unwrap().to_str().unwrap();
    found.retain(|path| is_of(path, name) && path.ends_with("adapter.safetensors"));
    // Of several experiments with the same name, the one that was prepared last.
    let made = |path: &PathBuf| fs::metadata(path).unwrap().modified().unwrap();
    let path = found.into_iter().max_by_key(made).unwrap();
    let tensors = read_tensors(&path);
    (path, tensors)
}

/// Whether `path` is in the prepared folder of the experiment `name`; the folder's name ends with a
/// hash of the experiment's path.
pub fn is_of(path: &Path, name: &str) -> bool {
    let experiment = format!("--{name}");
    path.iter().any(|part| {
        let part = part.to_string_lossy();
        part.rsplit_once('-')
            .is_some_and(|(before, _)| before.ends_with(&experiment))
    })
}

/// The tensors of the unmerged graph on the unquantized model.
pub fn full_precision(trial: &QuantizedTrial, target: &Path) -> Tensors {
    prepared_in_full(trial, target, "unmerged", "adapter.safetensors")
}

/// The tensors of a file of `variant`, on the unquantized model.
pub fn prepared_in_full(
    trial: &QuantizedTrial,
    target: &Path,
    variant: &str,
    file: &str,
) -> Tensors {
    let exports = tempfile::tempdir().unwrap();
    let mut command = program(["prepare", "--variant", variant, "--ep", "cpu"]);
    command.arg(target).arg("--model").arg(model(&trial.name));
    let outcome = run(command.arg("--export-dir").arg(exports.path()));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let mut found = files_below(exports.path());
    found.retain(|path| path.ends_with(file));
    assert_eq!(found.len(), 1, "{found:?}");
    read_tensors(&found[0])
}
