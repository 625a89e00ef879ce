//! Adapters beside quantized weights, against the same adapters in float32 over a plain checkpoint of what the codes stand
//! for. With float32 arithmetic (`--quantize-accuracy 1`) both are the same numbers, summed in another order.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::*;
use peft_bench::quantize::{Format, QuantizedFile};
use peft_bench::weights::{Dtype, SafetensorsFile};
use serde_json::{Value, json};

/// Sums of float32 in another order, a few layers deep.
const CLOSE: f32 = 5e-5;

/// What an adapter changes at least, and what another weight would change.
const APART: f32 = 2e-3;

/// The embedding's tensor.
const EMBEDDING: &str = "model.embed_tokens.weight";

/// A model that's quantized with some options, and what it's compared to.
struct Trial {
    root: tempfile::TempDir,
    name: String,
    options: Vec<String>,
    format: Format,
    head: Option<Format>,
    embedding: Option<Format>,
    /// Options of all runs.
    more: &'static [&'static str],
}

impl Trial {
    /// Quantizes the model `name`, and writes what its weights stand for.
    fn new(name: &str, format: Format) -> Self {
        Self::with_embedding(name, format, None)
    }

    /// The same with a quantized embedding.
    fn with_embedding(name: &str, format: Format, embedding: Option<Format>) -> Self {
        let mut options = vec!["--quantize", format.name()];
        if let Some(embedding) = embedding {
            options.extend(["--quantize-embedding", embedding.name()]);
        }
        let mut options: Vec<String> = options.into_iter().map(str::to_owned).collect();
        if format != Format::Nf4 {
            options.extend(["--quantize-accuracy", "1"].map(str::to_owned));
        }
        let trial = Self {
            root: tempfile::tempdir().unwrap(),
            name: name.to_owned(),
            format,
            head: (format != Format::Nf4).then_some(format),
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
    fn file(&self) -> PathBuf {
        let mut found = files_below(&self.root.path().join("quantized"));
        found.retain(|path| path.ends_with("quantized.safetensors"));
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    /// The checkpoint of what the codes stand for.
    fn plain(&self) -> PathBuf {
        self.root.path().join("plain")
    }

    fn write_plain(&self) {
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
                    // The copy of a tied head.
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
                    _ => self.format,
                };
                let in_out =
                    self.name == "gpt2" && !key.contains("wte") && !key.contains("lm_head");
                let values = match in_out {
                    false => file.dequantize(&key, format, rows, columns).unwrap(),
                    true => {
                        let turned = file.dequantize(&key, format, columns, rows).unwrap();
                        let place = |at: usize| turned[at % columns * rows + at / columns];
                        (0..rows * columns).map(place).collect()
                    }
                };
                let shape = vec![rows, columns];
                tensors.insert(name, Tensor { shape, values });
            }
        });
    }

    /// Logits of `variant` of a case, of the quantized model or over the plain checkpoint.
    fn logits(&self, target: &Path, variant: &str, quantized: bool) -> Vec<f32> {
        let command = self.command("generate", target, quantized);
        self.logits_of(command, target, variant)
    }

    /// Those of the checkpoint `plain` itself, for the prompt of a case.
    fn over(&self, plain: &Path, target: &Path) -> Vec<f32> {
        let mut command = program(["generate", "--ep", "cpu", "--threads", "1"]);
        command
            .arg(plain)
            .arg("--export-dir")
            .arg(plain.join("exports"));
        self.logits_of(command, target, "base")
    }

    fn logits_of(&self, mut command: Command, target: &Path, variant: &str) -> Vec<f32> {
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

    fn command(&self, command: &str, target: &Path, quantized: bool) -> Command {
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

    /// A case. Of a copy of the base's embedding or head, which PEFT saves beside adapters of them, there's nothing in it: it
    /// would take the place of what the codes stand for.
    fn case(&self, name: &str) -> PathBuf {
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

    /// What's wrong with the unmerged variant of `name` beside the quantized weights.
    fn fault(&self, name: &str) -> Option<String> {
        let case = self.case(name);
        let quantized = self.logits(&case, "unmerged", true);
        let plain = self.logits(&case, "unmerged", false);
        let base = self.logits(&case, "base", false);
        // The first row: later ones may follow another token.
        let first = quantized.len() / 4;
        let difference = relative_difference(&quantized, &plain);
        let effect = relative_difference(&quantized[..first], &base[..first]);
        let acts = effect > APART || WITHOUT_EFFECT.contains(&name);
        (difference > CLOSE || !acts).then(|| {
            let (model, format) = (&self.name, self.format.name());
            format!("{model}/{name} in {format}: {difference:e} off, {effect:e} from the base")
        })
    }
}

/// Cases whose adapter isn't to do anything for their prompt.
const WITHOUT_EFFECT: [&str; 1] = ["lora-alora-absent"];

/// Cases that are refused, quantized or not.
const REFUSED: [&str; 2] = ["psoft", "psoft-cayley-neumann"];

/// Cases that take something from the weights in full precision, which have tests of their own.
const OF_FULL_PRECISION: [&str; 7] = [
    "adamss",
    "adamss-one-subspace",
    "dora-pissa",
    "lora-kasa",
    "lora-olora",
    "lora-pissa",
    "supertuning-unsaved",
];

#[track_caller]
fn logits(command: &mut Command) -> Vec<f32> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("logits.safetensors");
    let outcome = run(command.arg("--logits").arg(&path));
    assert_eq!(outcome.code, Some(0), "{command:?}: {}", outcome.stderr);
    read_tensors(&path).remove("logits").unwrap().values
}

/// What a matrix's codes stand for.
fn stood_for(matrix: &Tensor, format: Format) -> Tensor {
    let [rows, columns] = matrix.shape[..] else {
        panic!("{:?} is no matrix", matrix.shape);
    };
    let made = format.quantize(&matrix.values, columns);
    Tensor {
        shape: matrix.shape.clone(),
        values: format.dequantize(&made.codes, &made.scales, rows, columns),
    }
}

/// Checks `cases` two at a time.
#[track_caller]
fn check(trial: &Trial, cases: &[String]) {
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

/// The cases of a model that are `meant`.
fn cases_of(name: &str, meant: impl Fn(&str) -> bool) -> Vec<String> {
    let mut all = names(case(name, "base").parent().unwrap());
    all.retain(|name| {
        name != "base"
            && !REFUSED.contains(&name.as_str())
            && !OF_FULL_PRECISION.contains(&name.as_str())
            && meant(name)
    });
    all
}

#[test]
fn every_method_computes_the_same_beside_4_bits_as_over_what_they_stand_for() {
    let trial = Trial::new("llama-gqa", Format::Int4);
    let cases = cases_of("llama-gqa", |_| true);
    assert!(cases.len() > 95, "{}", cases.len());
    check(&trial, &cases);
}

/// Methods that need more of a weight than its products.
fn needs_more(name: &str) -> bool {
    let methods = [
        "c3a",
        "dora",
        "fourierft",
        "frod",
        "glora",
        "gralora",
        "hira",
        "lily",
        "lora-alora",
        "lora-arrow",
        "lora-replication",
        "miss-bat",
        "osf",
        "randlora",
        "shadow",
        "shira",
        "supertuning",
        "waveft",
        "xlora",
    ];
    methods.iter().any(|method| name.starts_with(method))
}

#[test]
fn methods_that_need_more_than_products_do_so_beside_8_bits_and_nf4_too() {
    for (name, format) in [("llama-bias", Format::Int8), ("opt-pre", Format::Nf4)] {
        let trial = Trial::new(name, format);
        let cases = cases_of(name, |name| {
            let full = [
                "frod-unsaved",
                "lora-alora-olora",
                "supertuning-unsaved-least",
            ];
            needs_more(name) && !full.contains(&name)
        });
        assert!(cases.len() > 12, "{cases:?}");
        check(&trial, &cases);
    }
}

/// A method's own nodes take products with the weight, or the dequantized weight.
#[test]
fn a_methods_own_computation_is_the_same_beside_quantized_weights() {
    for format in [Format::Int4, Format::Int8, Format::Nf4] {
        let mut trial = Trial::new("llama-gqa", format);
        trial.more = &["--adapter-form", "native"];
        let all = [
            "adalora",
            "boft",
            "c3a",
            "delora",
            "dora",
            "gralora",
            "hira",
            "hra",
            "lily",
            "loha",
            "lokr",
            "lora-alora",
            "oft",
            "randlora",
            "road",
            "shadow",
            "vera",
            "xlora",
        ];
        let over_weights = ["dora", "hira", "hra"];
        let cases = if format == Format::Int4 {
            &all[..]
        } else {
            &over_weights
        };
        check(
            &trial,
            &cases
                .iter()
                .map(|&case| case.to_owned())
                .collect::<Vec<_>>(),
        );
        // It's dequantized by nodes, and not beforehand.
        for case in over_weights {
            let (_, tensors) = bound(&trial, &self::case("llama-gqa", case), true);
            assert!(tensors.values().all(|tensor| tensor.values.len() < 64 * 32));
        }
    }
    // Rows of 48 are padded to whole blocks.
    let mut trial = Trial::new("llama-tied", Format::Int4);
    trial.more = &["--adapter-form", "native"];
    let folder = trial.case("lora");
    std::fs::remove_file(folder.join("adapter_model.safetensors")).unwrap();
    let config = folder.join("adapter_config.json");
    set_key(&config, "use_dora", json!(true));
    set_key(&config, "init_lora_weights", json!(false));
    check(&trial, &["lora".to_owned()]);
}

/// A merge is quantized like a base of its weights.
#[test]
fn merged_weights_are_what_codes_of_the_merge_stand_for() {
    let format = Format::Int4;
    let trial = Trial::new("llama-gqa", format);
    let beside = ["lily", "lora-alora", "lora-arrow", "shadow", "xlora"];
    let merges =
        |name: &str| needs_more(name) && !beside.iter().any(|other| name.starts_with(other));
    let mut cases = cases_of("llama-gqa", |name| {
        merges(name) && name != "lora-replication"
    });
    cases.extend(["lora-pissa", "lora-kasa", "lora-olora", "adamss"].map(str::to_owned));
    assert!(cases.len() > 20, "{cases:?}");
    let stored = read_checkpoint(&trial.plain());
    for name in cases {
        let folder = case("llama-gqa", &name);
        let merged = prepared_in_full(&trial, &folder, "merged", "overlay.safetensors");
        let mut tensors = stored.clone();
        for (key, tensor) in merged {
            let linear = key.ends_with("_proj.weight");
            let merged = match linear {
                false => tensor,
                true => stood_for(&tensor, format),
            };
            let own = tensors.get_mut(&key).unwrap();
            assert_eq!(own.shape, merged.shape);
            *own = merged;
        }
        let plain = copy_folder(&trial.plain(), &trial.root.path().join(&name));
        write_tensors(&plain.join("model.safetensors"), &tensors, Dtype::Float32);
        let found = trial.logits(&folder, "merged", true);
        let expected = trial.over(&plain, &folder);
        let difference = relative_difference(&found, &expected);
        assert!(difference <= CLOSE, "{name}: {difference:e}");
        let base = trial.logits(&folder, "base", true);
        assert!(relative_difference(&found, &base) > APART, "{name}");
    }
}

#[test]
fn a_tied_head_and_weights_stored_the_other_way_round_do_so_too() {
    let trial = Trial::new("llama-tied", Format::Int4);
    check(
        &trial,
        &["lora", "lora-rslora", "waveft-coif1"].map(str::to_owned),
    );
    let trial = Trial::new("gpt2", Format::Nf4);
    check(
        &trial,
        &["dora", "fourierft-default-targets", "lora", "randlora"].map(str::to_owned),
    );
}

#[test]
fn experts_are_quantized_and_their_routers_are_not() {
    for name in ["mixtral", "olmoe", "qwen3-moe"] {
        for format in [Format::Int4, Format::Int8, Format::Nf4] {
            let trial = Trial::new(name, format);
            let file = SafetensorsFile::open(&trial.file()).unwrap();
            let names = file.names();
            let stored = read_checkpoint(&model(name));
            let experts = |name: &&String| name.contains("experts.") && name.ends_with(".weight");
            let experts: Vec<&String> = stored.keys().filter(experts).collect();
            assert!(experts.len() >= 24, "{name}: {experts:?}");
            for expert in experts {
                assert!(names.contains(&format!("{expert}.codes")), "{expert}");
            }
            let routers = names.iter().filter(|name| name.contains(".gate.weight"));
            assert_eq!(routers.count(), 0, "{name}");
            check(&trial, &["lora".to_owned()]);
            let base = |quantized| trial.logits(&case(name, "lora"), "base", quantized);
            let difference = relative_difference(&base(true), &base(false));
            assert!(difference <= CLOSE, "{name} in {format:?}: {difference:e}");
        }
    }
}

/// Adapters on the embedding, tied or not, get the rows that codes stand for; so does a head that shares them.
#[test]
fn adapters_beside_and_on_a_quantized_embedding_compute_the_same() {
    for format in [Format::Int4, Format::Int8] {
        let trial = Trial::with_embedding("llama-gqa", Format::Int4, Some(format));
        let cases = [
            "cpt",
            "dora-embed",
            "hira-embed",
            "lora",
            "lora-embed",
            "lora-save-lm-head",
            "lora-tokens",
            "oft-embed",
            "p-tuning-mlp",
            "prompt-tuning",
            "shadow",
            "tinylora-embed",
            "trainable-tokens",
            "xlora",
        ];
        check(&trial, &cases.map(str::to_owned));
        // Its width is no multiple of a block's.
        let trial = Trial::with_embedding("llama-tied", format, Some(format));
        let cases = [
            "dora-embed",
            "lora",
            "lora-embed",
            "lora-embed-head",
            "lora-head",
            "lora-save-embed",
            "lora-tie-embed",
            "lora-tokens",
            "lora-tokens-map",
            "trainable-tokens",
        ];
        check(&trial, &cases.map(str::to_owned));
        let file = SafetensorsFile::open(&trial.file()).unwrap();
        assert!(file.get("lm_head.weight.codes").is_none());
        // A head of another form has codes of its own.
        let other = [Format::Int4, Format::Int8][usize::from(format == Format::Int4)];
        let trial = Trial::with_embedding("llama-tied", other, Some(format));
        check(&trial, &["lora".to_owned()]);
        let file = SafetensorsFile::open(&trial.file()).unwrap();
        let codes = |name: &str| file.get(&format!("{name}.codes")).unwrap().shape.to_vec();
        assert_ne!(codes("lm_head.weight"), codes(EMBEDDING));
        let trial = Trial::with_embedding("opt-nonorm", Format::Nf4, Some(format));
        check(&trial, &["lora".to_owned(), "trainable-tokens".to_owned()]);
    }
}

/// The rows are those that the codes stand for, bit for bit.
#[test]
fn a_quantized_embedding_is_looked_up_without_rounding() {
    for format in [Format::Int4, Format::Int8] {
        let trial = Trial::with_embedding("llama-gqa", Format::Int4, Some(format));
        let folder = case("llama-gqa", "lora");
        let found = trial.logits(&folder, "base", true);
        // The same model with these rows in float32, and everything else as it was.
        let rows = read_tensors(&trial.plain().join("model.safetensors")).remove(EMBEDDING);
        let stored = copy_folder(&model("llama-gqa"), &trial.root.path().join("rows"));
        edit_tensors(&stored.join("model.safetensors"), |tensors| {
            let before = tensors.insert(EMBEDDING.to_owned(), rows.unwrap());
            assert_ne!(before.as_ref(), tensors.get(EMBEDDING));
        });
        let mut command = program(["generate", "--ep", "cpu", "--threads", "1"]);
        command
            .arg(&stored)
            .arg("--export-dir")
            .arg(stored.join("exports"));
        command.args(["--quantize", "4bit", "--quantize-accuracy", "1"]);
        assert_eq!(trial.logits_of(command, &folder, "base"), found);
    }
}

/// Merged embeddings are quantized; a tied head is the merged embedding, in its own form.
#[test]
fn a_merged_embedding_and_its_tied_head_are_quantized_after_the_merge() {
    for (embedding, head) in [
        (Format::Int8, Format::Int8),
        (Format::Int4, Format::Int8),
        (Format::Int8, Format::Int4),
    ] {
        let trial = Trial::with_embedding("llama-tied", head, Some(embedding));
        for name in ["lora-tie-embed", "trainable-tokens"] {
            let folder = trial.case(name);
            let overlay = prepared_in_full(&trial, &folder, "merged", "overlay.safetensors");
            let plain = copy_folder(&trial.plain(), &trial.root.path().join(name));
            set_key(
                &plain.join("config.json"),
                "tie_word_embeddings",
                json!(false),
            );
            edit_tensors(&plain.join("model.safetensors"), |tensors| {
                for (key, tensor) in &overlay {
                    let format = if key == EMBEDDING { embedding } else { head };
                    tensors.insert(key.clone(), stood_for(tensor, format));
                }
                let copy = stood_for(&overlay[EMBEDDING], head);
                tensors.insert("lm_head.weight".to_owned(), copy);
            });
            let found = trial.logits(&folder, "merged", true);
            let difference = relative_difference(&found, &trial.over(&plain, &folder));
            assert!(difference <= CLOSE, "{name}: {difference:e}");
            let base = trial.logits(&folder, "base", true);
            assert!(relative_difference(&found, &base) > APART, "{name}");
        }
    }
}

/// The tensors that are bound to the unmerged graph of `target`.
fn bound(trial: &Trial, target: &Path, quantized: bool) -> (PathBuf, Tensors) {
    let mut command = trial.command("prepare", target, quantized);
    let outcome = run(command.args(["--variant", "unmerged"]));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let exports = ["plain-exports", "quantized"][usize::from(quantized)];
    let mut found = files_below(&trial.root.path().join(exports));
    let name = target.file_name().unwrap().to_str().unwrap();
    let own = |path: &PathBuf| {
        path.to_string_lossy()
            .contains(&format!("--{name}/unmerged"))
    };
    found.retain(|path| own(path) && path.ends_with("adapter.safetensors"));
    assert_eq!(found.len(), 1, "{found:?}");
    let path = found.remove(0);
    let tensors = read_tensors(&path);
    (path, tensors)
}

/// What's left of the weights beside PiSSA's, OLoRA's and KaSA's tensors is taken from the full-precision ones and quantized
/// then: so the graph over float weights gets what those codes stand for.
#[test]
fn what_an_adapter_takes_out_is_taken_out_before_weights_are_quantized() {
    for (name, format, cases) in [
        (
            "llama-gqa",
            Format::Int4,
            &["lora-kasa", "lora-olora", "lora-pissa"][..],
        ),
        ("llama-gqa", Format::Nf4, &["lora-pissa"]),
        (
            "llama-bias",
            Format::Int8,
            &["dora-pissa", "lora-alora-olora"],
        ),
    ] {
        let trial = Trial::new(name, format);
        for case_name in cases {
            let folder = case(name, case_name);
            let full = full_precision(&trial, &folder);
            let (path, mut tensors) = bound(&trial, &folder, false);
            let mut changed = 0;
            for (key, residual) in &full {
                let Some(module) = key.strip_suffix(".lora.weight") else {
                    continue;
                };
                let [rows, columns] = residual.shape[..] else {
                    panic!("{key}");
                };
                let left = stood_for(residual, format).values;
                let gain = format!("{module}.lora_magnitude_vector");
                if let Some(gains) = tensors.get(&gain) {
                    assert_eq!(gains.shape, [rows]);
                    let magnitudes =
                        &read_tensors(&folder.join("adapter_model.safetensors"))[&gain];
                    let [a, b] =
                        ["A", "B"].map(|part| &tensors[&format!("{module}.lora_{part}.weight")]);
                    let updated = |row: usize| {
                        let at = |column: usize| {
                            let rank = a.shape[0];
                            let product = |k: usize| {
                                b.values[row * rank + k] * a.values[k * columns + column]
                            };
                            left[row * columns + column] + (0..rank).map(product).sum::<f32>()
                        };
                        (0..columns)
                            .map(at)
                            .map(|value| value * value)
                            .sum::<f32>()
                            .sqrt()
                    };
                    let gains = (0..rows).map(|row| magnitudes.values[row] / updated(row));
                    let gains = gains.collect();
                    tensors.get_mut(&gain).unwrap().values = gains;
                }
                tensors.get_mut(key).unwrap().values = left;
                changed += 1;
            }
            assert!(changed >= 4, "{case_name}: {changed}");
            write_tensors(&path, &tensors, Dtype::Float32);
            let found = trial.logits(&folder, "unmerged", true);
            let expected = trial.logits(&folder, "unmerged", false);
            let difference = relative_difference(&found, &expected);
            assert!(
                difference <= CLOSE,
                "{case_name} in {format:?}: {difference:e}"
            );
            let (_, quantized) = bound(&trial, &folder, true);
            assert!(quantized.keys().all(|key| !key.ends_with(".lora.weight")));
        }
    }
}

/// The tensors of the unmerged graph over the model as it is.
fn full_precision(trial: &Trial, target: &Path) -> Tensors {
    prepared_in_full(trial, target, "unmerged", "adapter.safetensors")
}

/// The tensors of a file of `variant`, over the model as it is.
fn prepared_in_full(trial: &Trial, target: &Path, variant: &str, file: &str) -> Tensors {
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

/// Users are told where an adapter has float weights in the place of quantized ones.
#[test]
fn weights_that_an_adapter_replaces_are_counted_and_told() {
    let trial = Trial::new("llama-gqa", Format::Int4);
    for (name, replaced) in [("c3a", 6), ("lora", 0), ("lora-save-lm-head", 1)] {
        let mut command = trial.command("prepare", &trial.case(name), true);
        let outcome = run(command.args(["--variant", "unmerged"]));
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let note = format!("in float32 in the place of {replaced} of 15 that are quantized");
        assert_eq!(outcome.stderr.contains(&note), replaced > 0, "{outcome:?}");
        let mut manifests = files_below(&trial.root.path().join("quantized"));
        manifests.retain(|path| {
            path.to_string_lossy()
                .contains(&format!("--{name}/unmerged/manifest"))
        });
        let found = &read_json(&manifests[0])["quantization"];
        assert_eq!(
            (&found["replaced_weights"], &found["quantized_weights"]),
            (&json!(replaced), &json!(15 - replaced))
        );
    }
}

/// AdaMSS groups rows by the weights that it was made on; SuperTuning's values belong to their largest elements.
#[test]
fn where_values_belong_is_found_in_the_weights_in_full_precision() {
    let trial = Trial::new("llama-gqa", Format::Int4);
    for name in ["adamss", "adamss-one-subspace", "supertuning-unsaved"] {
        let folder = case("llama-gqa", name);
        let full = full_precision(&trial, &folder);
        let (_, beside) = bound(&trial, &folder, true);
        let stored = read_checkpoint(&model("llama-gqa"));
        let plain = read_checkpoint(&trial.plain());
        assert!(full.len() == beside.len() && full.len() >= 4);
        for (key, tensor) in &full {
            let module = key.strip_suffix(".supertuning.weight");
            let name = module.map(|module| module.replace("base_model.model.", "") + ".weight");
            let change = |tensor: &Tensor, weights: &Tensors| match &name {
                None => tensor.values.clone(),
                Some(name) => {
                    let pairs = tensor.values.iter().zip(&weights[name].values);
                    pairs.map(|(own, base)| own - base).collect()
                }
            };
            let (expected, found) = (change(tensor, &stored), change(&beside[key], &plain));
            let difference = relative_difference(&found, &expected);
            assert!(difference <= CLOSE, "{key}: {difference:e}");
        }
    }
}
