//! Every family in 16 bits, and quantized: what it computes equals what the rounded weights give.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use peft_bench::model::BaseModel;
use peft_bench::quantize::{Format, FormatChoice, Parts, Quantization, QuantizedFile};
use peft_bench::weights::{Dtype, SafetensorsFile, round_to};

use crate::common::reference::{Case, Generated, try_generate};
use crate::common::*;
use crate::quantized_trial::options_of_layers;

/// Tolerance for float32 sums in another order.
const CLOSE: f32 = 1e-4;

/// A model, one of its adapters, and a folder for what's made of them.
struct Trial {
    name: String,
    adapter: PathBuf,
    case: Case,
    root: tempfile::TempDir,
}

impl Trial {
    fn new(name: &str) -> Self {
        let adapter = trained_adapter(name);
        Self {
            name: name.to_owned(),
            case: Case::read(&adapter),
            adapter,
            root: tempfile::tempdir().unwrap(),
        }
    }

    fn place(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Generates with `variant` on `base`.
    fn run(&self, base: &Path, variant: &str, options: &[String]) -> Result<Generated, String> {
        let exports = self.place("exports");
        let mut command = match variant {
            "base" => self.case.generate(base, variant, &exports),
            _ => {
                let mut command = self.case.generate(&self.adapter, variant, &exports);
                command.arg("--model").arg(base);
                command
            }
        };
        try_generate(command.args(options))
    }

    /// A checkpoint of the merged weights, in float32.
    fn merged(&self) -> PathBuf {
        let exports = self.place("merged");
        let mut command = program(["prepare", "--format", "hf", "--dtype", "float32"]);
        command.arg(&self.adapter).args(["--ep", "cpu", "--model"]);
        command.arg(model(&self.name));
        let outcome = run(command.arg("--export-dir").arg(&exports));
        assert_eq!(outcome.code, Some(0), "{}: {}", self.name, outcome.stderr);
        let mut found = files_below(&exports);
        found.retain(|path| path.ends_with("config.json"));
        found[0].parent().unwrap().to_owned()
    }
}

/// Checks all models, two at a time; `faults` receives a model's place in the list, and its trial.
#[track_caller]
fn of_every_model(faults: impl Fn(usize, &Trial) -> Vec<String> + Sync) {
    let models = names(&model(""));
    let next = AtomicUsize::new(0);
    let work = || {
        let mut found = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(name) = models.get(index) else {
                return found;
            };
            let faults = faults(index, &Trial::new(name)).into_iter();
            found.extend(faults.map(|fault| format!("{name}, {fault}")));
        }
    };
    let faults = std::thread::scope(|scope| {
        let workers = [scope.spawn(work), scope.spawn(work)];
        workers.map(|worker| worker.join().unwrap()).concat()
    });
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// What's wrong between two runs that shall compute the same.
fn fault(
    what: &str,
    found: Result<Generated, String>,
    expected: Result<Generated, String>,
    tolerance: f32,
) -> Option<String> {
    let (found, expected) = match (found, expected) {
        (Ok(found), Ok(expected)) => (found, expected),
        (found, expected) => {
            return Some(format!("{what}: {:?} {:?}", found.err(), expected.err()));
        }
    };
    let difference = relative_difference(&found.logits.values, &expected.logits.values);
    let same = found.token_ids == expected.token_ids;
    (difference > tolerance || !same).then(|| format!("{what}: {difference:e} off, {same}"))
}

/// What Transformers keeps in float32 in a model of 16 bits.
const KEPT: [&str; 3] = [".gate.weight", "e_score_correction_bias", "expert_bias"];

/// Weights that are rounded when the model is prepared are those of a checkpoint in 16 bits.
#[test]
fn every_family_in_16_bits_is_as_its_checkpoint_in_16_bits() {
    of_every_model(|index, trial| {
        let (name, dtype) = [("float16", Dtype::Float16), ("bfloat16", Dtype::BFloat16)][index % 2];
        let [wide, stored] = ["wide", "stored"].map(|copy| {
            let copy = copy_folder(&model(&trial.name), &trial.place(copy));
            for file in files_below(&copy) {
                if file.extension().is_some_and(|kind| kind == "safetensors") {
                    let mut tensors = read_tensors(&file);
                    let kept = |key: &String| KEPT.iter().any(|end| key.ends_with(end));
                    for (_, tensor) in tensors.iter_mut().filter(|(key, _)| kept(key)) {
                        let values = tensor.values.iter_mut();
                        values.for_each(|value| *value = round_to(*value, dtype));
                    }
                    let written = if copy.ends_with("wide") {
                        Dtype::Float32
                    } else {
                        dtype
                    };
                    write_tensors(&file, &tensors, written);
                }
            }
            copy
        });
        let options = ["--dtype", name].map(str::to_owned);
        // Merges begin with the values as they're stored.
        let compared = ["base", "unmerged"].map(|variant| {
            let expected = trial.run(&stored, variant, &options);
            let found = trial.run(&wide, variant, &options);
            fault(&format!("{name}, {variant}"), found, expected, 0.0)
        });
        compared.into_iter().flatten().collect()
    });
}

/// Quantized weights compute what their dequantized values compute, in base and unmerged variant;
/// a merge is quantized like a checkpoint of the merged weights.
#[test]
fn every_family_computes_the_same_on_quantized_as_on_dequantized_weights() {
    of_every_model(|index, trial| {
        let formats = [
            Format::Int4Blocks32,
            Format::Int8Blocks32,
            Format::Nf4,
            Format::KQuantBlocks16,
        ];
        quantized_faults(trial, formats[index % formats.len()])
    });
}

fn quantized_faults(trial: &Trial, format: Format) -> Vec<String> {
    // A checkpoint in shards has its weights in several files.
    if !model(&trial.name).join("model.safetensors").is_file() {
        return Vec::new();
    }
    let mut options = options_of_layers(format);
    options.extend(["--quantize-head", "float"].map(str::to_owned));
    if format != Format::Nf4 {
        options.extend(["--quantize-accuracy", "1"].map(str::to_owned));
    }
    let label = |what: &str| format!("{}, {what}", format.name());
    let quantized = |base: &Path, variant: &str| trial.run(base, variant, &options);
    let own = model(&trial.name);
    let base = quantized(&own, "base");
    let mut files = files_below(&trial.place("exports"));
    files.retain(|path| path.ends_with("quantized.safetensors"));
    let [file] = &files[..] else {
        return vec![label(&format!("no file of quantized weights: {base:?}"))];
    };
    let parts = Parts {
        head: Some(FormatChoice::Float),
        kv_proj: Some(format),
        ..Parts::default()
    };
    let quantization = Quantization::with(format, parts).unwrap();
    let plain = dequantized(trial, file, quantization);
    let on_plain = |variant: &str| trial.run(&plain, variant, &[]);
    let unmerged = quantized(&own, "unmerged");
    let merged = trial.merged();
    let compared = [
        fault(&label("base"), base, on_plain("base"), CLOSE),
        fault(&label("unmerged"), unmerged, on_plain("unmerged"), CLOSE),
        fault(
            &label("merged"),
            quantized(&own, "merged"),
            quantized(&merged, "base"),
            CLOSE,
        ),
    ];
    compared.into_iter().flatten().collect()
}

/// A copy of the model with the dequantized values of the weights in `file`.
fn dequantized(trial: &Trial, file: &Path, quantization: Quantization) -> PathBuf {
    let copy = copy_folder(&model(&trial.name), &trial.place("plain"));
    let weights = copy.join("model.safetensors");
    edit_tensors(&weights, |_| ());
    let base = BaseModel::open_folder(&copy).unwrap();
    let quantized = QuantizedFile::of(SafetensorsFile::open(file).unwrap());
    let written = OpenOptions::new().write(true).open(&weights).unwrap();
    let mut count = 0;
    for module in base.spec.modules() {
        let format = quantization.of(&base.spec, &module);
        let (Some(format), Some([rows, columns])) = (format, module.matrix_size()) else {
            continue;
        };
        let key = quantization.key(&base.spec, &module);
        let mut values = quantized.dequantize(&key, format, rows, columns).unwrap();
        if module.is_stored_in_out() {
            let place = |at: usize| values[at % rows * columns + at / rows];
            values = (0..rows * columns).map(place).collect();
        }
        let stored = base.tensor(&format!("{}.weight", module.source)).unwrap();
        assert_eq!(stored.elements(), values.len(), "{key}");
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        written.write_all_at(&bytes, stored.span().offset).unwrap();
        count += 1;
    }
    assert!(count > 2, "{}: {count}", trial.name);
    copy
}
