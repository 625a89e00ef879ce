//! The JSON of a result.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::Status;
use super::metrics::{samples, summarize};
use crate::engine::{EngineOptions, NotLowered, Provider, TF32};
use crate::machine::allowed_cores;
use crate::measure::break_even::break_even;
use crate::measure::comparison::{half_width, measured, overhead};
use crate::measure::energy::EnergyMethod;
use crate::measure::executed::ExecutedGraph;
use crate::measure::interference::Interference;
use crate::measure::memory::StageMemory;
use crate::measure::prompt_group::PromptGroup;
use crate::measure::record::SubjectRecord;
use crate::measure::session::ReachedPrecision;
use crate::measure::subject::Subject;
use crate::measure::swap::SwapResult;
use crate::measure::sweep::SweepRun;
use crate::onnxruntime::library::Library;
use crate::parity::Parity;
use crate::prepared::{Manifest, Variant};
use crate::quantize::Format;
use crate::system::{Hardware, SystemInfo};

/// Figures that end in `_mb` count 2^20 bytes, as PEFT's suite does.
const MB: f64 = 1_048_576.0;

/// A result.
#[derive(Debug, Clone, Serialize)]
pub struct ResultDocument {
    run_info: Value,
    generation_info: Value,
    meta_info: Value,
}

/// What a result says beside the measurements.
#[derive(Debug)]
pub struct RunInfo<'a> {
    /// RFC 3339, UTC, when the run began.
    pub timestamp: String,
    /// Of the whole run, seconds.
    pub duration: f64,
    /// How it ended.
    pub status: Status,
    /// Why it didn't succeed.
    pub error: Option<String>,
    /// The resolved parameters.
    pub benchmark_config: Value,
    /// What the hash in the result's name stands for.
    pub settings: Map<String, Value>,
    /// Accelerators.
    pub hardware: &'a Hardware,
    /// The machine.
    pub system: &'a SystemInfo,
    /// ONNX Runtime.
    pub library: Option<&'a Library>,
    /// The tokenizer of the prompts: whose it is, and its folder.
    pub tokenizer: Option<Value>,
    /// How sessions were opened.
    pub options: &'a EngineOptions,
    /// Manifests of the variants that were measured.
    pub manifests: BTreeMap<Variant, Manifest>,
    /// What the variants compute; absent where nothing was compared.
    pub parity: Option<&'a Parity>,
    /// The nodes that ran, by variant and session.
    pub graphs: Option<&'a BTreeMap<Variant, BTreeMap<String, ExecutedGraph>>>,
    /// What of a variant runs as prepared though another form is quicker.
    pub not_lowered: Option<&'a BTreeMap<Variant, Vec<NotLowered>>>,
    /// Variants that don't exist, with the reason.
    pub absent: BTreeMap<Variant, String>,
    /// Whether the base was measured in this run, interleaved, or taken from the cache.
    pub base_is_cached: bool,
    /// The precision that was asked for, and what came of it.
    pub precision: Option<ReachedPrecision>,
    /// What else kept the cores busy.
    pub interference: Option<Interference>,
    /// Where energy was read.
    pub energy_method: Option<EnergyMethod>,
    /// What came of swapping adapters, where it was asked for.
    pub swap: Option<&'a SwapResult>,
    /// Draws the bootstrap.
    pub seed: u64,
}

impl ResultDocument {
    /// Puts a result together.
    pub fn new(info: &RunInfo, records: &[SubjectRecord], sweep: &[SweepRun]) -> Self {
        let mut generation_info = generation_info(info, records);
        if !sweep.is_empty() {
            let entries = sweep.iter().flat_map(|run| sweep_entries(info, run));
            generation_info["sweep"] = entries.collect();
        }
        Self {
            run_info: run_info(info),
            generation_info,
            meta_info: meta_info(info),
        }
    }
}

fn run_info(info: &RunInfo) -> Value {
    let adapter = info
        .manifests
        .values()
        .find_map(|manifest| manifest.adapter.as_ref());
    json!({
        "timestamp": info.timestamp,
        "duration": info.duration,
        "status": info.status,
        "hardware": info.hardware,
        "error": info.error,
        "peft_config": adapter.map(|adapter| &adapter.config),
        "benchmark_config": info.benchmark_config,
        "settings": info.settings,
        "tokenizer": info.tokenizer,
        "session": info.options_json(),
        "target_precision": info.precision,
        "interference": info.interference,
        "energy_method": info.energy_method,
    })
}

impl RunInfo<'_> {
    fn options_json(&self) -> Value {
        let cuda = matches!(self.options.provider, Provider::Cuda(_));
        json!({
            "provider": self.options.provider.to_string(),
            "threads": self.options.threads,
            "batch_size": self.options.batch_size,
            "cuda_graph": cuda.then_some(self.options.cuda_graph),
            "tf32": cuda.then_some(TF32),
            "allowed_cores": allowed_cores(),
            "weights": self.options.weights,
            "base": if self.base_is_cached { "cached" } else { "interleaved" },
        })
    }
}

fn generation_info(info: &RunInfo, records: &[SubjectRecord]) -> Value {
    let find = |variant: Subject| records.iter().find(|record| record.variant == variant);
    let base = find(Subject::Base);
    let mut variants = Map::new();
    for record in records {
        variants.insert(
            record.variant.name().to_owned(),
            variant(info, base, record),
        );
    }
    for (variant, reason) in &info.absent {
        variants.insert(variant.name().to_owned(), json!({ "absent": reason }));
    }
    // PEFT's suite measures the adapter unmerged.
    let shown = [Subject::Unmerged, Subject::Merged, Subject::Base]
        .into_iter()
        .find_map(find);
    let mut all = match shown {
        Some(record) => compatible(info, base, record),
        None => Map::new(),
    };
    all.insert("variants".to_owned(), Value::Object(variants));
    all.insert("parity".to_owned(), json!(info.parity));
    all.insert(
        "aa".to_owned(),
        json!(find(Subject::BaseAgain).and_then(|again| aa(info, base?, again))),
    );
    let merging = find(Subject::Unmerged).zip(find(Subject::Merged));
    let merging = merging.and_then(|(unmerged, merged)| break_even(unmerged, merged, info.seed));
    all.insert("break_even".to_owned(), json!(merging));
    if let Some(result) = info.swap {
        all.insert("swap".to_owned(), swap(result, info.seed));
    }
    let valid = info.parity.is_some_and(|parity| parity.passed);
    all.insert("timings_valid".to_owned(), json!(valid));
    Value::Object(all)
}

/// One entry a group of prompts: every variant's figures, and its overhead.
fn sweep_entries(info: &RunInfo, run: &SweepRun) -> Vec<Value> {
    let mut records = run.records.iter();
    let base = records.find(|record| record.variant == Subject::Base);
    let groups: BTreeSet<PromptGroup> = run.records.iter().flat_map(measured).collect();
    let entry = |group: PromptGroup| {
        let mut variants = Map::new();
        for record in &run.records {
            let mut entry = json!({ "metrics": summarize(record, &[group]) });
            if let Some(base) = base.filter(|base| base.variant != record.variant) {
                let over = overhead(base, record, &[group], run.paired, info.seed);
                entry["overhead_pct"] = json!(over);
            }
            let name = group.to_string();
            let mut stages = record.stages.iter();
            let memory = stages.find(|of| of.stage == name).map(stage);
            entry["memory"] = json!(memory);
            entry["error"] = json!(record.error);
            variants.insert(record.variant.name().to_owned(), entry);
        }
        let mut runs = run.records.iter().flat_map(|record| record.runs_of(group));
        json!({
            "batch_size": run.batch_size,
            "prompts": group,
            "prompt_tokens": runs.next().map(|run| run.prompt_tokens),
            "variants": variants,
        })
    };
    groups.into_iter().map(entry).collect()
}

fn swap(result: &SwapResult, seed: u64) -> Value {
    match result {
        SwapResult::Absent(reason) => json!({ "absent": reason }),
        SwapResult::Failed(error) => json!({ "error": error }),
        SwapResult::Measured(times) => {
            let metrics = times.metrics(seed);
            json!({
                "metrics": metrics,
                "prompt_tokens": times.prompt_tokens,
                "loads": times.load,
                "swaps": times.swaps,
            })
        }
    }
}

/// The base against itself: what the machine alone makes of no difference.
fn aa(info: &RunInfo, base: &SubjectRecord, again: &SubjectRecord) -> Option<Value> {
    let over = overhead(base, again, &measured(again), true, info.seed)?;
    let [low, high] = over.interval_pct?;
    Some(json!({
        "interval_pct": over.interval_pct,
        "contains_zero": low <= 0.0 && high >= 0.0,
        "smallest_detectable_pct": half_width(&over),
        "pairs": over.pairs,
    }))
}

/// The keys of PEFT's suite.
fn compatible(
    info: &RunInfo,
    base: Option<&SubjectRecord>,
    record: &SubjectRecord,
) -> Map<String, Value> {
    let mut all = Map::new();
    all.insert("memory".to_owned(), memory(record));
    let mut categories = Map::new();
    for group in measured(record) {
        if let Some(metrics) = metrics(info, base, record, &[group]) {
            let samples = samples(record, group);
            let entry = json!({ "metrics": metrics, "samples": samples });
            categories.insert(group.to_string(), entry);
        }
    }
    all.insert("by_category".to_owned(), Value::Object(categories));
    let overall = metrics(info, base, record, &measured(record));
    all.insert("overall".to_owned(), json!(overall));
    all
}

fn variant(info: &RunInfo, base: Option<&SubjectRecord>, record: &SubjectRecord) -> Value {
    let mut all = compatible(info, base, record);
    let compared = base.filter(|base| base.variant != record.variant);
    if let Some(base) = compared {
        let over = |groups: &[PromptGroup]| {
            overhead(base, record, groups, !info.base_is_cached, info.seed)
        };
        let by_category: Map<String, Value> = measured(record)
            .into_iter()
            .map(|group| (group.to_string(), json!(over(&[group]))))
            .collect();
        all.insert(
            "overhead_pct".to_owned(),
            json!({ "overall": over(&measured(record)), "by_category": by_category }),
        );
    }
    let provider = info.options.provider.to_string();
    all.insert("provider".to_owned(), json!(provider));
    let graph = info
        .graphs
        .and_then(|graphs| graphs.get(&record.variant.into()));
    all.insert("executed".to_owned(), json!(graph));
    let not_lowered = info
        .not_lowered
        .and_then(|all| all.get(&record.variant.into()))
        .filter(|found| !found.is_empty());
    if let Some(not_lowered) = not_lowered {
        all.insert("not_lowered".to_owned(), json!(not_lowered));
    }
    all.insert("prepare_seconds".to_owned(), json!(record.prepare_seconds));
    all.insert("lay_out_seconds".to_owned(), json!(record.lay_out_seconds));
    all.insert("session_seconds".to_owned(), json!(record.session_seconds));
    if let Some(step_graph) = &record.step_graph {
        all.insert("cuda_graph".to_owned(), json!(step_graph));
    }
    all.insert("warmup_runs".to_owned(), json!(record.warmup_runs));
    all.insert("error".to_owned(), json!(record.error));
    Value::Object(all)
}

fn metrics(
    info: &RunInfo,
    base: Option<&SubjectRecord>,
    record: &SubjectRecord,
    groups: &[PromptGroup],
) -> Option<Value> {
    let of = |record: &SubjectRecord| summarize(record, groups);
    let mut metrics = json!(of(record)?);
    if let (Some(base), Some(keys)) = (base, metrics.as_object_mut()) {
        let base_time = of(base).map(|metrics| metrics.inference_time);
        keys.insert("base_inference_time".to_owned(), json!(base_time));
        if base.variant != record.variant {
            let over = overhead(base, record, groups, !info.base_is_cached, info.seed);
            let pct = over.map(|over| over.pct);
            keys.insert("inference_overhead_pct".to_owned(), json!(pct));
        }
    }
    Some(metrics)
}

fn memory(record: &SubjectRecord) -> Value {
    let mb = |bytes: u64| bytes as f64 / MB;
    let peak = record.generation_memory();
    let logs: Vec<Value> = record.stages.iter().map(stage).collect();
    json!({
        "peak_accelerator_memory_mb": peak.peak_accelerator_bytes.map(mb),
        "peak_ram_memory_mb": mb(peak.peak_rss_bytes),
        "peak_anonymous_memory_mb": peak.peak_anonymous_bytes.map(mb),
        "memory_logs": logs,
    })
}

fn stage(stage: &StageMemory) -> Value {
    let mb = |bytes: u64| bytes as f64 / MB;
    json!({
        "stage": stage.stage,
        "ram_mb": mb(stage.ram.rss_bytes),
        "accelerator_allocated_mb": stage.accelerator_allocated_bytes.map(mb),
        "accelerator_reserved_mb": stage.accelerator_reserved_bytes.map(mb),
        "arena": stage.arena.map(|arena| json!({
            "in_use_mb": mb(arena.in_use),
            "max_in_use_mb": mb(arena.max_in_use),
            "reserved_mb": mb(arena.reserved),
        })),
        "anonymous_mb": stage.ram.anonymous_bytes.map(mb),
        "file_backed_mb": stage.ram.file_backed_bytes.map(mb),
        "peak_ram_mb": mb(stage.peak_rss_bytes),
        "peak_ram_method": stage.peak_rss_method,
        "peak_anonymous_mb": stage.peak_anonymous_bytes.map(mb),
        "peak_accelerator_mb": stage.peak_accelerator_bytes.map(mb),
        "accelerator_method": stage.accelerator_method,
    })
}

/// What is quantized and how, by the first manifest and that of the `unmerged` variant; null where nothing is.
fn quantization(manifest: &Manifest, unmerged: Option<&Manifest>) -> Value {
    let Some(found) = &manifest.quantization else {
        return Value::Null;
    };
    let beside = unmerged.and_then(|manifest| manifest.quantization.as_ref());
    json!({
        "scheme": found.scheme,
        "bits": found.bits,
        "block_size": found.block_size,
        "symmetric": found.symmetric,
        "accuracy_level": found.accuracy_level,
        "head": found.head.map_or("float", Format::name),
        "embedding": found.embedding.map_or("float", Format::name),
        "float": found.float,
        "quantized_weights": found.quantized_weights,
        "quantized_size_mb": found.quantized_bytes as f64 / MB,
        "replaced_by_unmerged": beside.map(|found| found.replaced_weights),
    })
}

fn meta_info(info: &RunInfo) -> Value {
    let Some(manifest) = info.manifests.values().next() else {
        return json!({ "system_info": info.system });
    };
    let adapter = info
        .manifests
        .values()
        .find_map(|manifest| manifest.adapter.as_ref());
    // Only there the adapter has nodes.
    let mut all = info.manifests.values();
    let unmerged = all.find(|manifest| manifest.variant == Variant::Unmerged);
    let base_params = manifest.base_params;
    let trainable = adapter.map_or(0, |adapter| adapter.trainable_params);
    let total = adapter.map_or(base_params, |adapter| adapter.total_params);
    json!({
        "model_id": manifest.model_id,
        "weights": if manifest.synthetic { "synthetic" } else { "trained" },
        "adapter": adapter.map(|adapter| json!({
            "weights": if adapter.fresh { "fresh" } else { "trained" },
        })),
        "adapter_form": unmerged.and_then(|manifest| Some(manifest.adapter.as_ref()?.adapter_form)),
        "task": adapter.and_then(|adapter| adapter.task),
        "adapter_bytes_per_token": unmerged.map(|manifest| manifest.reads.adapter_bytes),
        "dtype": manifest.dtype,
        "compute_dtype": manifest.compute,
        "quantization": quantization(manifest, unmerged),
        "parameters": {
            "base_params": base_params,
            "trainable_params": trainable,
            "total_params": total,
            "param_ratio": trainable as f64 / total as f64,
        },
        "model_size": {
            "base_model_size_mb": manifest.base_bytes as f64 / MB,
            "adapter_size_mb": adapter.map_or(0.0, |adapter| adapter.stored_bytes as f64 / MB),
        },
        "package_info": {
            "peft-bench-version": env!("CARGO_PKG_VERSION"),
            "peft-bench-git-revision": option_env!("PEFT_BENCH_GIT_REVISION"),
            "onnxruntime-version": info.library.map(|library| &library.version),
            "onnxruntime-path": info.library.map(|library| &library.path),
        },
        "system_info": info.system,
    })
}
