//! From the records of a measurement to reports, one for each target. Each bootstrap is drawn once,
//! in [`Figures`] or here, and every format reads what came of it.

mod figures;
mod memory;
mod meta_info;
mod metrics;
#[cfg(test)]
pub mod scripted;
mod serving;
mod variant;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

pub use figures::Figures;

use super::model::{
    BaseAgainstItself, BaseSource, Entry, GenerationInfo, Parity, Report, RunInfo, SCHEMA_VERSION,
    Session, Status, Swap, SwapMetrics, Tokenizer, Variant,
};
use crate::engine::{EngineOptions, NotLowered, Provider, TF32};
use crate::machine::allowed_cores;
use crate::measure::break_even::break_even;
use crate::measure::drift::drift;
use crate::measure::energy::EnergyMethod;
use crate::measure::executed::ExecutedGraph;
use crate::measure::interference::Interference;
use crate::measure::quiet::GateOutcome;
use crate::measure::rounds::RoundLooks;
use crate::measure::serving::Serving;
use crate::measure::session::ReachedPrecision;
use crate::measure::stats::is_hurried;
use crate::measure::subject::Subject;
use crate::measure::swap::SwapResult;
use crate::measure::timed_tokens::TimedTokens;
use crate::onnxruntime::library::Library;
use crate::parity;
use crate::prepared::{self, Manifest};
use crate::system::{Environment, Hardware, SystemInfo};

/// Figures that end in `_mb` count 2^20 bytes, as PEFT's suite does.
const MB: f64 = 1_048_576.0;

/// What a report says apart from the figures.
#[derive(Debug)]
pub struct ReportInput<'a> {
    /// RFC 3339, UTC, when the run began.
    pub timestamp: String,
    /// How long the whole run took, in seconds.
    pub duration: f64,
    /// How it ended.
    pub status: Status,
    /// Why it didn't succeed.
    pub error: Option<String>,
    /// The resolved parameters.
    pub benchmark_config: Value,
    /// The settings that the hash in the result's name stands for.
    pub settings: Map<String, Value>,
    /// Accelerators.
    pub hardware: &'a Hardware,
    /// The machine.
    pub system: &'a SystemInfo,
    /// ONNX Runtime.
    pub library: Option<&'a Library>,
    /// The tokenizer of the prompts.
    pub tokenizer: Option<Tokenizer>,
    /// How sessions were opened.
    pub options: &'a EngineOptions,
    /// Manifests of the variants that were measured.
    pub manifests: BTreeMap<prepared::Variant, Manifest>,
    /// What the variants compute; absent where nothing was compared.
    pub parity: Option<&'a parity::Parity>,
    /// Whether timed runs generate what was checked; absent where nothing was.
    pub timed_tokens: Option<&'a TimedTokens>,
    /// The nodes that ran, by variant and session.
    pub graphs: Option<&'a BTreeMap<prepared::Variant, BTreeMap<String, ExecutedGraph>>>,
    /// Parts of a variant that run as prepared although a faster form exists.
    pub not_lowered: Option<&'a BTreeMap<prepared::Variant, Vec<NotLowered>>>,
    /// Variants that don't exist, with the reason.
    pub absent: BTreeMap<prepared::Variant, String>,
    /// Whether the base was taken from an earlier measurement.
    pub base_is_cached: bool,
    /// The precision that was asked for, and what came of it.
    pub precision: Option<ReachedPrecision>,
    /// What else kept the cores busy.
    pub interference: Option<Interference>,
    /// Whether others stayed quiet from round to round.
    pub rounds: Option<RoundLooks>,
    /// What came of waiting for a quiet machine.
    pub quiet_gate: Option<GateOutcome>,
    /// The state of the machine that times depend on.
    pub environment: Option<&'a Environment>,
    /// Where energy was read.
    pub energy_method: Option<EnergyMethod>,
    /// What came of swapping adapters, where it was asked for.
    pub swap: Option<&'a SwapResult>,
    /// What serving costs, where it was asked for.
    pub serving: Option<&'a Serving>,
    /// Draws the bootstrap.
    pub seed: u64,
}

impl<'a> ReportInput<'a> {
    /// Of a run that ended with `status`; the rest is absent, and `duration` and `seed` are 0.
    pub fn new(
        timestamp: String,
        status: Status,
        benchmark_config: Value,
        hardware: &'a Hardware,
        system: &'a SystemInfo,
        options: &'a EngineOptions,
    ) -> Self {
        Self {
            timestamp,
            duration: 0.0,
            status,
            error: None,
            benchmark_config,
            settings: Map::new(),
            hardware,
            system,
            library: None,
            tokenizer: None,
            options,
            manifests: BTreeMap::new(),
            parity: None,
            timed_tokens: None,
            graphs: None,
            not_lowered: None,
            absent: BTreeMap::new(),
            base_is_cached: false,
            precision: None,
            interference: None,
            rounds: None,
            quiet_gate: None,
            environment: None,
            energy_method: None,
            swap: None,
            serving: None,
            seed: 0,
        }
    }
}

impl Report {
    /// The report of the target that's called `experiment` among the `figures`; of the only target,
    /// if there's no such name.
    pub fn new(input: &ReportInput, figures: &Figures, experiment: Option<&str>) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            run_info: run_info(input),
            generation_info: generation_info(input, figures, experiment),
            meta_info: meta_info::meta_info(input),
        }
    }
}

fn run_info(input: &ReportInput) -> RunInfo {
    let mut manifests = input.manifests.values();
    let adapter = manifests.find_map(|manifest| manifest.adapter.as_ref());
    RunInfo {
        timestamp: input.timestamp.clone(),
        duration: input.duration,
        status: input.status,
        hardware: input.hardware.clone(),
        error: input.error.clone(),
        peft_config: adapter.map(|adapter| adapter.config.clone()),
        benchmark_config: input.benchmark_config.clone(),
        settings: Some(input.settings.clone()),
        tokenizer: input.tokenizer.clone().into(),
        session: session(input),
        target_precision: input.precision.into(),
        interference: input.interference.into(),
        rounds: input.rounds.into(),
        quiet_gate: input.quiet_gate.into(),
        environment: input.environment.cloned().into(),
        energy_method: input.energy_method.into(),
        fewer_draws: is_hurried().then_some(true),
    }
}

fn session(input: &ReportInput) -> Session {
    let options = input.options;
    let cuda = matches!(options.provider, Provider::Cuda(_));
    Session {
        provider: options.provider.to_string(),
        threads: options.threads,
        batch_size: Some(options.batch_size),
        gpu_layers: options.gpu_layers,
        cuda_graph: cuda.then_some(options.cuda_graph).into(),
        tf32: cuda.then_some(TF32).into(),
        allowed_cores: allowed_cores().into(),
        weights: options.weights,
        base: match input.base_is_cached {
            true => BaseSource::Cached,
            false => BaseSource::Interleaved,
        },
    }
}

fn generation_info(
    input: &ReportInput,
    figures: &Figures,
    experiment: Option<&str>,
) -> GenerationInfo {
    let own: Vec<_> = figures.of(experiment).collect();
    let measured = own.iter().map(|(record, figures)| {
        let variant = Variant {
            provider: Some(input.options.provider.to_string()),
            executed: executed(input, record.variant).into(),
            not_lowered: not_lowered(input, record.variant),
            ..(*figures).clone()
        };
        let name = record.variant.name().to_owned();
        (name, Entry::Measured(Box::new(variant)))
    });
    let absent = input.absent.iter().map(|(variant, reason)| {
        let absent = reason.clone();
        (variant.name().to_owned(), Entry::Absent { absent })
    });
    let find = |subject| {
        let mut all = own.iter();
        all.find(|(record, _)| record.variant == subject)
    };
    let merging = find(Subject::Unmerged).zip(find(Subject::Merged));
    let merging =
        merging.and_then(|((unmerged, _), (merged, _))| break_even(unmerged, merged, input.seed));
    let again = find(Subject::BaseAgain);
    let base = find(Subject::Base).filter(|_| !input.base_is_cached);
    let is_as_checked = |tokens: &TimedTokens| tokens.differences.is_empty();
    let is_valid = input.parity.is_some_and(|parity| parity.passed)
        && input.timed_tokens.is_none_or(is_as_checked);
    GenerationInfo {
        variants: measured.chain(absent).collect(),
        parity: input.parity.map(Parity::from).into(),
        timed_tokens: input.timed_tokens.cloned().into(),
        drift: base.and_then(|(base, _)| drift(base)).into(),
        aa: again.and_then(|(_, again)| against_itself(again)).into(),
        break_even: merging.into(),
        swap: input.swap.map(|result| swap(result, input.seed)),
        serving: input
            .serving
            .map(|found| serving::serving(found, input.seed)),
        timings_valid: Some(is_valid),
        sweep: figures.sweep_of(experiment),
    }
}

fn executed(input: &ReportInput, subject: Subject) -> Option<BTreeMap<String, ExecutedGraph>> {
    input.graphs?.get(&subject.into()).cloned()
}

fn not_lowered(input: &ReportInput, subject: Subject) -> Option<Vec<NotLowered>> {
    let found = input.not_lowered?.get(&subject.into())?;
    (!found.is_empty()).then(|| found.clone())
}

/// What the base's second measurement says about the machine.
fn against_itself(again: &Variant) -> Option<BaseAgainstItself> {
    let over = again.overall_overhead()?;
    let [low, high] = over.interval_pct?;
    Some(BaseAgainstItself {
        interval_pct: over.interval_pct,
        contains_zero: low <= 0.0 && high >= 0.0,
        smallest_detectable_pct: over.half_width(),
        pairs: over.pairs,
    })
}

fn swap(result: &SwapResult, seed: u64) -> Swap {
    match result {
        SwapResult::Absent(reason) => Swap::Absent {
            absent: reason.clone(),
        },
        SwapResult::Failed(error) => Swap::Failed {
            error: error.clone(),
        },
        SwapResult::Measured(times) => Swap::Measured {
            metrics: times.metrics(seed).map(SwapMetrics::from),
            prompt_tokens: times.prompt_tokens,
            loads: times.load.clone(),
            swaps: times.swaps.clone(),
        },
    }
}
