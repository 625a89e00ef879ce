//! Files with bytes removed, flipped or inserted at random: whatever the library makes of them, it
//! must neither panic nor hang, and what it accepts the program must run or refuse.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::common::*;
use peft_bench::adapter::AdapterForm;
use peft_bench::config::{BenchmarkConfig, DefaultsSource};
use peft_bench::experiment::Experiment;
use peft_bench::model::{BaseModel, TextTokenizer};
use peft_bench::prepare::Preparation;
use peft_bench::prepared::{Precision, Variant};
use peft_bench::weights::Dtype;
use rand::rngs::ChaCha12Rng;
use rand::{RngExt, SeedableRng};

/// Number of damaged versions of each file.
const VERSIONS: usize = 200;

/// The limit for reading one version, which takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// `whole` truncated, or with one to four of its first `reach` bytes damaged.
fn damaged(whole: &[u8], reach: usize, rng: &mut ChaCha12Rng) -> Vec<u8> {
    const TELLING: &[u8] = b"0123456789-.eE{}[]\",:\\ntf\0\xff";
    let mut bytes = whole.to_vec();
    for _ in 0..rng.random_range(1..=4) {
        let at = rng.random_range(0..reach.min(bytes.len().max(1)));
        let telling = TELLING[rng.random_range(0..TELLING.len())];
        match rng.random_range(0..6) {
            _ if at >= bytes.len() => bytes.push(telling),
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 | 2 => bytes[at] = telling,
            3 => bytes.insert(at, telling),
            4 => {
                bytes.remove(at);
            }
            _ => bytes.truncate(at),
        }
    }
    bytes
}

/// Damages `file` repeatedly and calls `read` each time, which must neither panic nor hang. Returns
/// how many versions `read` accepted.
fn damage(
    file: PathBuf,
    reach: usize,
    read: impl Fn() -> Result<(), String> + Send + 'static,
) -> usize {
    let whole = fs::read(&file).unwrap();
    read().unwrap_or_else(|message| panic!("{} is whole: {message}", file.display()));
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for version in 0..VERSIONS {
            let mut rng = ChaCha12Rng::seed_from_u64(version as u64);
            let bytes = damaged(&whole, reach, &mut rng);
            // Creates a new file, since the last one may still be mapped.
            fs::remove_file(&file).unwrap();
            fs::write(&file, &bytes).unwrap();
            let result = catch_unwind(AssertUnwindSafe(&read));
            if sender.send((version, bytes, result.map_err(drop))).is_err() {
                return;
            }
        }
    });
    let mut accepted = 0;
    for expected in 0..VERSIONS {
        let (version, bytes, result) = receiver
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("version {expected} takes too long"));
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(reach.saturating_add(100))]);
        match result {
            Err(()) => panic!("version {version} panics:\n{text}"),
            Ok(Ok(())) => accepted += 1,
            Ok(Err(message)) => assert!(!message.is_empty(), "version {version}:\n{text}"),
        }
    }
    assert!(accepted < VERSIONS, "none of the versions was refused");
    accepted
}

/// A copy of a base model and of a case.
struct Copies {
    root: PathBuf,
    base: PathBuf,
    experiment: PathBuf,
}

impl Copies {
    fn new(root: &Path, model_name: &str, case_name: &str) -> Self {
        Self {
            root: root.to_owned(),
            base: copy_folder(&model(model_name), &root.join("base-model")),
            experiment: copy_folder(&case(model_name, case_name), &root.join("trial")),
        }
    }

    /// Prepares all variants of the method, in this process.
    fn prepare(&self) -> Result<(), String> {
        let export_dir = self.root.join("exported");
        let base = BaseModel::open_folder(&self.base).map_err(|e| e.to_string())?;
        let experiment = Experiment::find(&self.experiment).map_err(|e| e.to_string())?;
        let preparation = Preparation {
            base: &base,
            precision: Precision::new(Dtype::Float32, false),
            export_dir: &export_dir,
            seed: 1,
            adapter_form: AdapterForm::Reduced,
            task_id: None,
        };
        for variant in [Variant::Base, Variant::Unmerged, Variant::Merged] {
            let prepared = preparation.prepare(Some(&experiment), &[variant]);
            prepared.map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// Prepares, and lets the program run what could be prepared; it may refuse with a message.
    fn prepare_and_run(&self) -> Result<(), String> {
        self.prepare()?;
        let mut command = program([
            "generate",
            "--ep",
            "cpu",
            "--threads",
            "1",
            "--prompt-ids",
            "1,2",
        ]);
        command
            .args(["--max-new-tokens", "2"])
            .arg(&self.experiment);
        command.arg("--model").arg(&self.base);
        let outcome = run(command.arg("--export-dir").arg(self.root.join("exported")));
        match outcome.code {
            Some(0) => Ok(()),
            Some(1) if outcome.error().is_some() => Err(outcome.stderr),
            _ => panic!("{outcome:?}"),
        }
    }
}

/// The end of a safetensors file's header.
fn header_end(path: &Path) -> usize {
    let bytes = fs::read(path).unwrap();
    8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize
}

#[test]
fn a_damaged_adapter_configuration_is_read_or_refused() {
    for (model, case) in [
        ("llama-gqa", "lora-patterns"),
        ("llama-tied", "lora-tokens-map"),
        ("llama-bias", "lora-replication"),
        ("opt-post", "prefix-tuning"),
    ] {
        let root = tempfile::tempdir().unwrap();
        let copies = Copies::new(root.path(), model, case);
        let prepare = match case {
            "prefix-tuning" => |copies: &Copies| match copies.prepare() {
                Err(message) if message.contains("can't be merged") => Ok(()),
                other => other,
            },
            _ => |copies: &Copies| copies.prepare_and_run(),
        };
        let file = copies.experiment.join("adapter_config.json");
        damage(file, usize::MAX, move || prepare(&copies));
    }
}

#[test]
fn a_damaged_configuration_of_a_fresh_adapter_is_read_or_refused() {
    for (model, case) in [
        ("llama-gqa", "lora-tokens"),
        ("llama-tied", "prompt-tuning"),
    ] {
        let root = tempfile::tempdir().unwrap();
        let copies = Copies::new(root.path(), model, case);
        make_fresh(&copies.experiment);
        let file = copies.experiment.join("adapter_config.json");
        damage(file, usize::MAX, move || match copies.prepare() {
            Err(message) if message.contains("can't be merged") => Ok(()),
            other => other,
        });
    }
}

#[test]
fn a_damaged_model_configuration_is_read_or_refused() {
    for (model, case) in [
        ("llama-rope3", "lora"),
        ("llama-linear", "lora"),
        ("opt-post", "lora"),
    ] {
        let root = tempfile::tempdir().unwrap();
        let copies = Copies::new(root.path(), model, case);
        let file = copies.base.join("config.json");
        damage(file, usize::MAX, move || copies.prepare_and_run());
    }
}

#[test]
fn a_damaged_header_is_read_or_refused() {
    for (model, case) in [("llama-gqa", "lora-embed"), ("opt-bare", "lora-bias-all")] {
        for of_base in [false, true] {
            let root = tempfile::tempdir().unwrap();
            let copies = Copies::new(root.path(), model, case);
            let file = match of_base {
                false => copies.experiment.join("adapter_model.safetensors"),
                true => copies.base.join("model.safetensors"),
            };
            let reach = header_end(&file);
            let accepted = damage(file, reach, move || copies.prepare());
            assert!(accepted < VERSIONS / 4, "{accepted}");
        }
    }
}

#[test]
fn a_damaged_index_of_shards_is_read_or_refused() {
    let root = tempfile::tempdir().unwrap();
    let copies = Copies::new(root.path(), "llama-linear", "lora");
    let file = copies.base.join("model.safetensors.index.json");
    damage(file, usize::MAX, move || copies.prepare());
}

#[test]
fn a_damaged_tokenizer_is_read_or_refused() {
    let root = tempfile::tempdir().unwrap();
    let copies = Copies::new(root.path(), "llama-gqa", "lora");
    let file = copies.base.join("tokenizer.json");
    damage(file, usize::MAX, move || {
        let tokenizer = TextTokenizer::open(&copies.base).map_err(|e| e.to_string())?;
        let ids = tokenizer
            .encode("The adapter.")
            .map_err(|e| e.to_string())?;
        tokenizer.decode(&ids).map_err(|e| e.to_string()).map(drop)
    });
}

#[test]
fn damaged_benchmark_parameters_are_read_or_refused() {
    let root = tempfile::tempdir().unwrap();
    let defaults = Path::new(env!("CARGO_MANIFEST_DIR")).join("default_benchmark_params.json");
    let file = root.path().join("params.json");
    fs::copy(defaults, &file).unwrap();
    let read = file.clone();
    damage(file, usize::MAX, move || {
        let config = BenchmarkConfig::load(DefaultsSource::File(&read), None, &|_| {});
        config.map(drop).map_err(|e| e.to_string())
    });
}
