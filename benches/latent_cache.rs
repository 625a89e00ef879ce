//! What a compressed cache of latent attention saves and costs, against an expanded one.
//!
//! Engines with both caches take turns, first with whole prompts, then with decode steps behind the
//! last one. It prints medians over all rounds, and the medians of the rounds' ratios.
//!
//! ```sh
//! cargo bench --bench latent_cache -- [model] [threads] [prompt tokens …]
//! ```
//!
//! The model is `synthetic/deepseek-v2-391m`, and prompts have 64, 512 and 4096 tokens, unless
//! others are given.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::error::Error;
use std::time::Instant;

use peft_bench::adapter::AdapterForm;
use peft_bench::arch::LatentCache;
use peft_bench::engine::{
    DecoderEngine, Engine, EngineOptions, OnnxRuntime, Provider, WeightsMode,
};
use peft_bench::files::cache_dir::cache_dir;
use peft_bench::machine::physical_cores;
use peft_bench::measure::stats::median;
use peft_bench::model::{BaseModel, ModelId};
use peft_bench::onnxruntime::install::locate_or_install;
use peft_bench::prepare::Preparation;
use peft_bench::prepared::{Precision, PreparedVariant, Variant};
use peft_bench::weights::Dtype;

/// Turns of an engine with whole prompts, for at most so many tokens; longer ones get fewer.
const PROMPTS: usize = 7;
const LONG: usize = 1024;
const LONG_PROMPTS: usize = 3;
/// Turns with decode steps. Those of a turn are consecutive, as a generation's steps are.
const ROUNDS: usize = 20;
const TURN: usize = 3;
const LENGTHS: [usize; 3] = [64, 512, 4096];

fn main() -> Result<(), Box<dyn Error>> {
    // Cargo passes `--bench`.
    let all: Vec<String> = std::env::args().skip(1).collect();
    let mut arguments = all.iter().filter(|argument| *argument != "--bench");
    let model = arguments.next();
    let model = model.map_or("synthetic/deepseek-v2-391m", String::as_str);
    let threads = match arguments.next() {
        Some(threads) => threads.parse()?,
        None => physical_cores(),
    };
    let lengths: Vec<usize> = arguments
        .map(|length| length.parse())
        .collect::<Result<_, _>>()?;
    let lengths = if lengths.is_empty() {
        LENGTHS.to_vec()
    } else {
        lengths
    };

    let id = ModelId::parse(model)?;
    let mut base = BaseModel::open(&id, Dtype::Float32, false, &|_, _, _| {})?;
    let mut variants = Vec::new();
    for cache in LatentCache::ALL {
        if !base.spec.set_latent_cache(cache) {
            return Err(format!("{model} has no latent attention").into());
        }
        variants.push(prepare(&base)?);
    }
    println!("{model}, float32, {threads} threads");
    for (cache, variant) in LatentCache::ALL.iter().zip(&variants) {
        let bytes = variant.manifest.reads.cache_bytes_per_position;
        println!("{:<10} {bytes} bytes of cache a token", cache.name());
    }
    let runtime = OnnxRuntime::load(&locate_or_install(false, &|_| {})?)?;
    for length in lengths {
        compare(&runtime, &variants, length, threads)?;
    }
    Ok(())
}

fn prepare(base: &BaseModel) -> Result<PreparedVariant, Box<dyn Error>> {
    let precision = Precision::new(Dtype::Float32, false);
    let preparation = Preparation {
        base,
        precision: precision.with_latent_cache(base.spec.latent_cache()),
        export_dir: &cache_dir().join("benches"),
        seed: 0,
        adapter_form: AdapterForm::Reduced,
        task_id: None,
    };
    Ok(preparation.prepare(None, &[Variant::Base])?.remove(0))
}

/// Times of one engine, one of each round.
#[derive(Default)]
struct Times {
    first_token: Vec<f64>,
    step: Vec<f64>,
}

fn compare(
    runtime: &OnnxRuntime,
    variants: &[PreparedVariant],
    length: usize,
    threads: usize,
) -> Result<(), Box<dyn Error>> {
    let options = EngineOptions {
        provider: Provider::Cpu,
        threads,
        weights: WeightsMode::Mapped,
        batch_size: 1,
        max_length: length + (ROUNDS + 1) * TURN + 1,
        logits_on_host: false,
        cuda_graph: false,
        gpu_layers: None,
        profile: None,
    };
    let mut engines = Vec::new();
    for variant in variants {
        DecoderEngine::lay_out(variant, &options, &|_| {})?;
        engines.push(DecoderEngine::open(runtime, variant, &options)?);
    }
    let prompt: Vec<u32> = (0..length as u32).map(|place| 1 + place % 1000).collect();
    let mut times = [Times::default(), Times::default()];
    let prompts = if length > LONG { LONG_PROMPTS } else { PROMPTS };
    let mut tokens = [0, 0];
    // The order alternates, so that none always follows the other; the first round warms up.
    let order = |round: usize| if round % 2 == 1 { [0, 1] } else { [1, 0] };
    for round in 0..=prompts {
        for place in order(round) {
            let start = Instant::now();
            tokens[place] = engines[place].prefill(&prompt)?;
            if round > 0 {
                let seconds = start.elapsed().as_secs_f64();
                times[place].first_token.push(seconds);
            }
        }
    }
    for round in 0..=ROUNDS {
        for place in order(round) {
            let mut steps = Vec::new();
            for _ in 0..TURN {
                let start = Instant::now();
                tokens[place] = engines[place].decode(tokens[place])?;
                steps.push(start.elapsed().as_secs_f64());
            }
            if round > 0 {
                let step = median(&steps).ok_or("no steps")?;
                times[place].step.push(step);
            }
        }
    }
    let [expanded, compressed] = &times;
    for (what, one, other) in [
        (
            "first token",
            &expanded.first_token,
            &compressed.first_token,
        ),
        ("a step", &expanded.step, &compressed.step),
    ] {
        let ratios = one.iter().zip(other).map(|(one, other)| other / one);
        let ratios: Vec<f64> = ratios.collect();
        let most = ratios.iter().copied().fold(f64::MIN, f64::max);
        let least = ratios.iter().copied().fold(f64::MAX, f64::min);
        println!(
            "{length:>5} tokens, {what:<11}: expanded {:8.2} ms, compressed {:8.2} ms, ratio {:.3} ({least:.3} … {most:.3})",
            1e3 * median(one).ok_or("no rounds")?,
            1e3 * median(other).ok_or("no rounds")?,
            median(&ratios).ok_or("no rounds")?,
        );
    }
    Ok(())
}
