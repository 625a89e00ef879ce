//! How close decode steps come to the machine's memory bandwidth.
//!
//! Decode steps of the base variant, in each weights mode, take turns with a plain vectorised sum
//! over as many bytes as a step must read, with the same threads. It prints medians over all
//! rounds; the share of the sum's rate is the median of the rounds' ratios.
//!
//! ```sh
//! cargo bench --bench decode_rate -- [model] [threads]
//! ```
//!
//! The model is `synthetic/llama-336m` unless another is given.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(unsafe_code, reason = "mapping a file has no safe form")]

use std::error::Error;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use memmap2::Mmap;
use peft_bench::adapter::AdapterForm;
use peft_bench::engine::{
    DecoderEngine, Engine, EngineOptions, OnnxRuntime, Provider, WeightsMode,
};
use peft_bench::files::cache_dir::cache_dir;
use peft_bench::machine::physical_cores;
use peft_bench::measure::bandwidth::timed_sum;
use peft_bench::measure::memory::ProcessMemory;
use peft_bench::measure::stats::median;
use peft_bench::model::{BaseModel, ModelId};
use peft_bench::onnxruntime::install::locate_or_install;
use peft_bench::prepare::Preparation;
use peft_bench::prepared::{Precision, PreparedVariant, Variant};
use peft_bench::weights::Dtype;

const ROUNDS: usize = 40;
/// Steps or sums in a turn. They're consecutive, as a generation's steps are.
const TURN: usize = 3;
const PROMPT: usize = 64;

fn main() -> Result<(), Box<dyn Error>> {
    // Cargo passes `--bench`.
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let model = arguments
        .first()
        .map_or("synthetic/llama-336m", String::as_str);
    let threads = match arguments.get(1) {
        Some(threads) => threads.parse()?,
        None => physical_cores(),
    };

    let id = ModelId::parse(model)?;
    let base = BaseModel::open(&id, Dtype::Float32, false, &|_, _, _| {})?;
    let export_dir = cache_dir().join("benches");
    let preparation = Preparation {
        base: &base,
        precision: Precision::new(Dtype::Float32, false),
        export_dir: &export_dir,
        seed: 0,
        adapter_form: AdapterForm::Reduced,
        task_id: None,
    };
    let start = Instant::now();
    let variant = preparation.prepare(None, &[Variant::Base])?.remove(0);
    let prepared = start.elapsed();

    let bytes = variant.manifest.reads.bytes(PROMPT as f64) as u64;
    println!(
        "{model}, float32, {threads} threads, {:.0} MiB a token",
        bytes as f64 / 1_048_576.0
    );
    println!(
        "prepare   {}{}",
        milliseconds(prepared.as_secs_f64()),
        if variant.up_to_date {
            " (up to date)"
        } else {
            ""
        }
    );
    let maps = maps(&base)?;
    let runtime = OnnxRuntime::load(&locate_or_install(false, &|_| {})?)?;
    let mut engines = Vec::new();
    for weights in [
        WeightsMode::Mapped,
        WeightsMode::InPlace,
        WeightsMode::Resident,
    ] {
        DecoderEngine::lay_out(&variant, &options(weights, threads), &|_| {})?;
        engines.push(TimedEngine::open(&runtime, &variant, weights, threads)?);
    }
    // The sum reads as many bytes as a step, from the same file.
    let largest = maps
        .iter()
        .max_by_key(|map| map.len())
        .ok_or("the model has no files")?;
    let count = (bytes as usize / 4).min(largest.len() / 4);
    let values = floats(largest, count);

    let mut floor = Vec::new();
    for round in 0..ROUNDS {
        let sums: Vec<f64> = (0..TURN)
            .map(|_| timed_sum(values, threads).0.as_secs_f64())
            .collect();
        floor.push(median(&sums).ok_or("no sums")?);
        // The order alternates, so that no mode always follows the sum.
        let mut order: Vec<&mut TimedEngine> = engines.iter_mut().collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for contestant in order {
            contestant.turn()?;
        }
    }
    let floor_median = median(&floor).ok_or("no rounds")?;
    let read = (count * 4) as f64;
    println!(
        "sum       {}  {:.1} GB/s",
        milliseconds(floor_median),
        read / floor_median / 1e9
    );
    for contestant in &engines {
        let step = median(&contestant.steps).ok_or("no rounds")?;
        let ratios: Vec<f64> = floor
            .iter()
            .zip(&contestant.steps)
            .map(|(floor, step)| (floor / read) / (step / bytes as f64))
            .collect();
        let ratio = median(&ratios).ok_or("no rounds")?;
        println!(
            "{:<9} {}  {:.1} GB/s, {:.0} % of the sum's rate; start {}, anonymous memory +{:.0} MiB",
            contestant.weights.to_string(),
            milliseconds(step),
            bytes as f64 / step / 1e9,
            100.0 * ratio,
            milliseconds(contestant.start.as_secs_f64()),
            contestant.anonymous / 1_048_576.0,
        );
    }
    Ok(())
}

struct TimedEngine {
    weights: WeightsMode,
    engine: DecoderEngine,
    start: Duration,
    anonymous: f64,
    token: u32,
    steps: Vec<f64>,
}

impl TimedEngine {
    fn open(
        runtime: &OnnxRuntime,
        variant: &PreparedVariant,
        weights: WeightsMode,
        threads: usize,
    ) -> Result<Self, Box<dyn Error>> {
        let anonymous = || -> Result<f64, Box<dyn Error>> {
            Ok(ProcessMemory::read()?.anonymous_bytes.unwrap_or(0) as f64)
        };
        let before = anonymous()?;
        let begin = Instant::now();
        let options = options(weights, threads);
        let mut engine = DecoderEngine::open(runtime, variant, &options)?;
        let start = begin.elapsed();
        let anonymous = anonymous()? - before;
        let prompt: Vec<u32> = (1..=PROMPT as u32).collect();
        let token = engine.prefill(&prompt)?;
        Ok(Self {
            weights,
            engine,
            start,
            anonymous,
            token,
            steps: Vec::new(),
        })
    }

    fn turn(&mut self) -> Result<(), Box<dyn Error>> {
        let mut times = Vec::new();
        for _ in 0..TURN {
            let start = Instant::now();
            self.token = self.engine.decode(self.token)?;
            times.push(start.elapsed().as_secs_f64());
        }
        self.steps.push(median(&times).ok_or("no steps")?);
        Ok(())
    }
}

/// Options for opening sessions.
fn options(weights: WeightsMode, threads: usize) -> EngineOptions {
    EngineOptions {
        provider: Provider::Cpu,
        threads,
        weights,
        batch_size: 1,
        max_length: PROMPT + ROUNDS * TURN + 1,
        logits_on_host: false,
        gpu_layers: None,
        cuda_graph: false,
        profile: None,
    }
}

fn maps(base: &BaseModel) -> Result<Vec<Mmap>, Box<dyn Error>> {
    let files: Vec<PathBuf> = base.store.files().map(Path::to_owned).collect();
    let mut maps = Vec::new();
    for path in files {
        let file = File::open(path)?;
        // SAFETY: the model's files aren't written to while the benchmark runs.
        maps.push(unsafe { Mmap::map(&file)? });
    }
    Ok(maps)
}

/// The last `count` floats of a mapped file.
fn floats(map: &Mmap, count: usize) -> &[f32] {
    // SAFETY: any bits are an `f32`; `align_to` gives the aligned middle.
    let (_, values, _) = unsafe { map.align_to::<f32>() };
    &values[values.len() - count.min(values.len())..]
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.1} ms", seconds * 1e3)
}
