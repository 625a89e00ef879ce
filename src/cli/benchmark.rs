//! Measuring prepared variants, with progress, a table, and a result file. Commands share it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result, bail};

use super::measure_progress::MeasureProgress;
use super::options::CommonOptions;
use super::output::print;
use super::progress::message;
use super::prompt_plans::{PromptSource, check_room};
use super::setup;
use super::table;
use crate::config::BenchmarkConfig;
use crate::engine::{EngineError, EngineOptions, Provider, WeightsMode};
use crate::measure::bandwidth::WeightsReader;
use crate::measure::break_even::break_even;
use crate::measure::client::{Interrupt, WorkerError};
use crate::measure::energy::{EnergyMethod, SystemMeter};
use crate::measure::interference::{Interference, InterferenceWatch};
use crate::measure::protocol::Comparison;
use crate::measure::record::{PromptPlan, VariantRecord};
use crate::measure::session::{Entrant, MeasurePlan, Measurement, Meters, Precision, Step, Target};
use crate::measure::subject::Subject;
use crate::measure::swap::SwapResult;
use crate::measure::sweep::SweepRun;
use crate::prepare::{
    Manifest, PreparedVariant, PromptKind, Variant, empty_variant, not_swappable, other_adapters,
};
use crate::results::{self, BaseCache, CacheKey, ResultDocument, RunInfo, Status};
use crate::runtime::library::Library;
use crate::system::{Hardware, SystemInfo};

/// How a command ended, if not by an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// What was asked for was done.
    Done,
    /// Ctrl-C.
    Interrupted,
}

/// What has a result of its own: an experiment, mostly.
pub struct Job {
    /// The result's name: `<method>--<name>`.
    pub stem: String,
    /// What it's called in the table, where several are measured together.
    pub label: String,
    /// The base among them.
    pub variants: Vec<PreparedVariant>,
    /// Variants that don't exist, with the reason.
    pub absent: BTreeMap<Variant, String>,
}

/// One measurement, of one base and of one or more experiments, and their result files.
pub struct Benchmark<'a> {
    common: &'a CommonOptions,
    provider: Provider,
    prompts: Option<&'a Path>,
    interrupt: &'a Interrupt,
    hardware: Hardware,
    system: SystemInfo,
    started: Instant,
    timestamp: String,
    /// Go on until overheads are known so well.
    pub target: Option<Target>,
    /// Measure the unmerged graph with an adapter of zeros as well.
    pub empty: bool,
    /// Measure the base against itself as well.
    pub aa: bool,
    /// Take the base from the cache.
    pub cached_base: bool,
    /// Let so many adapters take turns as well.
    pub swap: Option<usize>,
    /// Prompts of so many tokens are measured as well.
    pub contexts: &'a [usize],
    /// The base is all there is: an earlier measurement of it will do, unless it's to be made anew.
    pub base_only: bool,
}

/// What was measured.
struct Measured {
    records: Vec<VariantRecord>,
    sweep: Vec<SweepRun>,
    /// One a job, where swaps were asked for.
    swaps: Vec<Option<SwapResult>>,
    /// One a job.
    comparisons: Vec<Comparison>,
    precision: Option<Precision>,
    interference: Option<Interference>,
    energy_method: Option<EnergyMethod>,
    outcome: Result<(), WorkerError>,
    base_is_cached: bool,
    library: Library,
}

impl<'a> Benchmark<'a> {
    /// A measurement.
    pub fn new(
        common: &'a CommonOptions,
        provider: Provider,
        prompts: Option<&'a Path>,
        interrupt: &'a Interrupt,
    ) -> Self {
        Self {
            common,
            provider,
            prompts,
            interrupt,
            hardware: Hardware::collect(common.device),
            system: SystemInfo::collect(),
            started: Instant::now(),
            timestamp: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            target: None,
            empty: false,
            aa: false,
            cached_base: false,
            contexts: &[],
            swap: None,
            base_only: false,
        }
    }

    /// Measures the variants of all `jobs` against one base, writes a result for each, prints one table.
    pub fn measure(&self, config: &BenchmarkConfig, mut jobs: Vec<Job>) -> Result<Outcome> {
        let measured = match self.run(config, &mut jobs) {
            Ok(measured) => measured,
            Err(error) => {
                let stems = jobs.iter().map(|job| job.stem.as_str());
                return Err(self.failed(config, stems, error));
            }
        };
        let mut paths = Vec::new();
        let mut errors = Vec::new();
        for (index, job) in jobs.iter().enumerate() {
            let (status, error) = measured.judge(index, job);
            let path = self.write(config, &measured, index, job, status, error.clone())?;
            errors.extend(error.map(|error| format!("{error} (see {})", path.display())));
            paths.push(path.display().to_string());
        }
        if let Err(WorkerError::Interrupted) = measured.outcome {
            let paths = paths.join(", ");
            message(&format!("interrupted; what was measured is in {paths}"));
            return Ok(Outcome::Interrupted);
        }
        let text = self.text(config, &jobs, &measured, &paths);
        print(&text)?;
        if errors.is_empty() {
            return Ok(Outcome::Done);
        }
        bail!("{}", errors.join("; "))
    }

    /// Records an error that came before anything was measured.
    pub fn failed<'s>(
        &self,
        config: &BenchmarkConfig,
        stems: impl Iterator<Item = &'s str>,
        error: anyhow::Error,
    ) -> anyhow::Error {
        let options = self.options(config);
        let info = self.info(config, &options, Status::Failed, Some(format!("{error:#}")));
        let document = ResultDocument::new(&info, &[], &[]);
        for stem in stems {
            let output = &self.common.output;
            if let Err(second) = results::write(output, stem, Status::Failed, &document) {
                return error.context(format!("{second}"));
            }
        }
        error
    }

    /// Everything that's printed: a table, and a line for whatever else there is to say.
    fn text(
        &self,
        config: &BenchmarkConfig,
        jobs: &[Job],
        measured: &Measured,
        paths: &[String],
    ) -> String {
        let mut text = format!("{}\n\n", self.header(config, jobs, measured));
        let paired = !measured.base_is_cached;
        text.push_str(&table::render(&measured.records, paired, config.seed));
        if !measured.sweep.is_empty() {
            text.push_str(&table::sweep(&measured.sweep, config.seed));
        }
        for (index, job) in jobs.iter().enumerate() {
            let parity = &measured.comparisons[index].parity;
            let title = if jobs.len() > 1 { &job.label } else { "" };
            text.push_str(&table::absent(title, &job.absent));
            let records = records_of(&measured.records, job);
            let find = |subject| records.iter().find(|one| one.variant == subject);
            if let Some((unmerged, merged)) = find(Subject::Unmerged).zip(find(Subject::Merged)) {
                let found = break_even(unmerged, merged, config.seed);
                text.push_str(
                    &found.map_or(String::new(), |found| table::break_even(title, &found)),
                );
            }
            text.push_str(&table::executed(title, &measured.comparisons[index].graphs));
            if let Some(swap) = &measured.swaps[index] {
                text.push_str(&table::swap(title, swap, config.seed));
            }
            text.push_str(&table::parity(title, parity.as_ref()));
        }
        let precision = measured.precision.as_ref();
        text.push_str(&precision.map_or(String::new(), table::precision));
        text.push_str(&table::doubts(
            &measured.records,
            measured.interference.as_ref(),
        ));
        text.push('\n');
        for path in paths {
            text.push_str(&format!("result  {path}\n"));
        }
        text
    }

    fn run(&self, config: &BenchmarkConfig, jobs: &mut [Job]) -> Result<Measured> {
        let first = jobs.iter().flat_map(|job| &job.variants).next();
        let first = first.context("there is nothing to measure")?;
        let source = PromptSource::open(self.prompts, first)?;
        let prompts = source.categories(config)?;
        let contexts = source.contexts(config, self.contexts)?;
        for prompts in [&prompts, &contexts] {
            check_room(prompts, jobs.iter().flat_map(|job| &job.variants))?;
        }
        check_batches(config, jobs)?;
        let library = setup::library(self.common, self.provider)?;
        let options = self.options(config);
        let mut plan = MeasurePlan {
            program: std::env::current_exe().context("cannot find this program's own file")?,
            library: library.clone(),
            entrants: self.entrants(jobs)?,
            prompts,
            runs: config.num_inference_runs,
            options,
            seed: config.seed,
            target: self.target,
        };
        let mut sweep = self.sweep_plans(config, &plan, contexts);
        for plan in std::iter::once(&mut plan).chain(&mut sweep) {
            make_ready(plan)?;
        }
        let reader = self.weights_reader(&plan);
        let no_rate = ();

        let comparisons = {
            let progress = MeasureProgress::default();
            progress.report(Step::Comparing);
            let several = jobs.len() > 1;
            jobs.iter()
                .map(|job| plan.parity(several.then_some(job.label.as_str()), self.interrupt))
                .collect::<Result<Vec<Comparison>, WorkerError>>()
        };
        let cache = BaseCache::new(&self.common.output);
        let key = self.base_key(&plan);
        let mut cached = None;
        if self.cached_base {
            cached = key.as_ref().and_then(|key| cache.get(key));
            match &cached {
                Some(_) => plan.entrants.retain(|one| one.subject != Subject::Base),
                None => {
                    message("note: no earlier measurement of this base fits; it is measured now")
                }
            }
        }
        if self.base_only && cached.is_some() {
            message("note: this base was measured before, with everything the same");
        }

        let watch = InterferenceWatch::start();
        let meter = SystemMeter::new(self.provider);
        let meters = Meters {
            energy: &meter,
            memory: match &reader {
                Some(reader) => reader,
                None => &no_rate,
            },
        };
        let progress = MeasureProgress::default();
        let (comparisons, measurement) = match comparisons {
            Err(interrupted) => (
                vec![Comparison::default(); jobs.len()],
                nothing(Err(interrupted)),
            ),
            Ok(comparisons) if plan.entrants.is_empty() => (comparisons, nothing(Ok(()))),
            Ok(comparisons) => {
                let measured = plan.run(self.interrupt, meters, &|step| progress.report(step));
                (comparisons, measured)
            }
        };
        let Measurement {
            records,
            precision,
            outcome,
        } = measurement;
        let base_is_cached = cached.is_some();
        let records: Vec<VariantRecord> = cached.into_iter().chain(records).collect();
        let base = records.iter().find(|r| r.variant == Subject::Base);
        let parities = comparisons.iter().filter_map(|one| one.parity.as_ref());
        let parity = parities.into_iter().all(|parity| parity.passed);
        let good = outcome.is_ok() && parity && self.target.is_none() && !base_is_cached;
        if let (Some(key), Some(base), true) = (&key, base, good)
            && base.error.is_none()
        {
            cache
                .put(key, base)
                .context("cannot write the base's measurement")?;
        }
        drop(progress);
        let (sweep, outcome) = match outcome {
            Ok(()) => self.sweep(sweep, meters, &records, !base_is_cached),
            Err(error) => (Vec::new(), Err(error)),
        };
        let (swaps, outcome) = match (self.swap, outcome) {
            (Some(count), Ok(())) => match self.swaps(jobs, &plan, count)? {
                Ok(swaps) => (swaps, Ok(())),
                Err(interrupted) => (vec![None; jobs.len()], Err(interrupted)),
            },
            (_, outcome) => (vec![None; jobs.len()], outcome),
        };
        Ok(Measured {
            records,
            sweep,
            swaps,
            comparisons,
            precision,
            interference: watch.and_then(|watch| watch.finish()),
            energy_method: meter.method(),
            outcome,
            base_is_cached,
            library,
        })
    }

    /// One plan a batch size, where there are several or prompts of given lengths.
    fn sweep_plans(
        &self,
        config: &BenchmarkConfig,
        main: &MeasurePlan,
        contexts: Vec<PromptPlan>,
    ) -> Vec<MeasurePlan> {
        if contexts.is_empty() && config.batch_sizes.len() == 1 {
            return Vec::new();
        }
        let plan = |&batch_size: &usize| {
            let mut plan = main.clone();
            plan.options.batch_size = batch_size;
            plan.target = None;
            if !contexts.is_empty() {
                plan.prompts.clone_from(&contexts);
            }
            plan
        };
        config.batch_sizes.iter().map(plan).collect()
    }

    /// Measures what `plans` has that the main measurement, whose records are `main`, hasn't.
    fn sweep(
        &self,
        plans: Vec<MeasurePlan>,
        meters: Meters,
        main: &[VariantRecord],
        paired: bool,
    ) -> (Vec<SweepRun>, Result<(), WorkerError>) {
        let mut runs = Vec::new();
        for (index, plan) in plans.into_iter().enumerate() {
            let batch_size = plan.options.batch_size;
            if index == 0 && self.contexts.is_empty() {
                let records = main.to_vec();
                runs.push(SweepRun {
                    batch_size,
                    records,
                    paired,
                });
                continue;
            }
            message(&format!("batches of {batch_size}"));
            let progress = MeasureProgress::default();
            let found = plan.run(self.interrupt, meters, &|step| progress.report(step));
            runs.push(SweepRun {
                batch_size,
                records: found.records,
                paired: true,
            });
            if found.outcome.is_err() {
                return (runs, found.outcome);
            }
        }
        (runs, Ok(()))
    }

    /// Lets `count` adapters of each job take turns.
    fn swaps(
        &self,
        jobs: &[Job],
        plan: &MeasurePlan,
        count: usize,
    ) -> Result<Result<Vec<Option<SwapResult>>, WorkerError>> {
        let mut all = Vec::new();
        for job in jobs {
            let mut variants = job.variants.iter();
            let unmerged = variants.find(|one| one.manifest.variant == Variant::Unmerged);
            let Some(unmerged) = unmerged else {
                let reason = "there is no unmerged variant".to_owned();
                all.push(Some(SwapResult::Absent(reason)));
                continue;
            };
            if let Some(reason) = not_swappable(unmerged) {
                all.push(Some(SwapResult::Absent(reason.to_owned())));
                continue;
            }
            message(&format!("swapping {count} adapters"));
            let folder = tempfile::tempdir().context("cannot make a folder for other adapters")?;
            let others = other_adapters(unmerged, count - 1, plan.seed, folder.path())?;
            match plan.swaps(unmerged, others, self.interrupt) {
                Ok(result) => all.push(Some(result)),
                Err(interrupted) => return Ok(Err(interrupted)),
            }
        }
        Ok(Ok(all))
    }

    fn options(&self, config: &BenchmarkConfig) -> EngineOptions {
        let mut options = setup::engine_options(self.common, self.provider, 0, WeightsMode::Mapped);
        options.batch_size = config.batch_sizes[0];
        options
    }

    /// Who takes part: one base, and what each job has beside it.
    fn entrants(&self, jobs: &[Job]) -> Result<Vec<Entrant>> {
        let mut entrants = Vec::new();
        let mut bases = jobs.iter().flat_map(|job| &job.variants);
        let base = bases.find(|prepared| prepared.manifest.variant == Variant::Base);
        let mut add = |subject, experiment, prepared: &PreparedVariant| {
            entrants.push(Entrant {
                subject,
                experiment,
                prepared: prepared.clone(),
            });
        };
        if let Some(base) = base {
            add(Subject::Base, None, base);
        }
        for job in jobs {
            let experiment = || (jobs.len() > 1).then(|| job.label.clone());
            for prepared in &job.variants {
                if prepared.manifest.variant != Variant::Base {
                    add(prepared.manifest.variant.into(), experiment(), prepared);
                }
            }
            let mut all = job.variants.iter();
            let unmerged = all.find(|one| one.manifest.variant == Variant::Unmerged);
            if self.empty {
                let empty = unmerged.map(empty_variant).transpose()?;
                match empty.flatten() {
                    Some(empty) => add(Subject::UnmergedEmpty, experiment(), &empty),
                    None => message("note: there is no `unmerged-empty` of this adapter"),
                }
            }
        }
        if self.aa
            && let Some(base) = base
        {
            add(Subject::BaseAgain, None, base);
        }
        Ok(entrants)
    }

    /// What reads as many bytes as a step of the base, where it runs on the processor.
    fn weights_reader(&self, plan: &MeasurePlan) -> Option<WeightsReader> {
        let manifest = &plan.entrants.first()?.prepared.manifest;
        match self.provider {
            Provider::Cuda(_) => None,
            Provider::Cpu => WeightsReader::open(
                &manifest.model_folder,
                manifest.reads.weight_bytes,
                plan.options.threads,
            ),
        }
    }

    fn base_key(&self, plan: &MeasurePlan) -> Option<CacheKey> {
        let mut entrants = plan.entrants.iter();
        let base = entrants.find(|one| one.subject == Subject::Base)?;
        Some(CacheKey::new(
            &base.prepared.manifest,
            &plan.prompts,
            plan.runs,
            &plan.options,
            &plan.library,
            &self.hardware,
            &self.system,
        ))
    }

    fn write(
        &self,
        config: &BenchmarkConfig,
        measured: &Measured,
        index: usize,
        job: &Job,
        status: Status,
        error: Option<String>,
    ) -> Result<PathBuf> {
        let options = self.options(config);
        let mut info = self.info(config, &options, status, error);
        info.library = Some(&measured.library);
        info.base_is_cached = measured.base_is_cached;
        info.manifests = job.manifests();
        info.absent = job.absent.clone();
        info.precision = measured.precision;
        info.interference = measured.interference;
        info.energy_method = measured.energy_method;
        info.parity = measured.comparisons[index].parity.as_ref();
        info.graphs = Some(&measured.comparisons[index].graphs);
        let sweep = measured.sweep.iter().map(|run| SweepRun {
            records: records_of(&run.records, job),
            ..run.clone()
        });
        let sweep: Vec<SweepRun> = sweep.collect();
        info.swap = measured.swaps[index].as_ref();
        let document = ResultDocument::new(&info, &records_of(&measured.records, job), &sweep);
        let output = &self.common.output;
        Ok(results::write(output, &job.stem, status, &document)?)
    }

    fn info<'b>(
        &'b self,
        config: &BenchmarkConfig,
        options: &'b EngineOptions,
        status: Status,
        error: Option<String>,
    ) -> RunInfo<'b> {
        RunInfo {
            timestamp: self.timestamp.clone(),
            duration: self.started.elapsed().as_secs_f64(),
            status,
            error,
            benchmark_config: config.to_json(),
            hardware: &self.hardware,
            system: &self.system,
            library: None,
            options,
            manifests: BTreeMap::new(),
            parity: None,
            graphs: None,
            absent: BTreeMap::new(),
            base_is_cached: false,
            precision: None,
            interference: None,
            energy_method: None,
            swap: None,
            seed: config.seed,
        }
    }

    fn header(&self, config: &BenchmarkConfig, jobs: &[Job], measured: &Measured) -> String {
        let place = match (self.provider, &self.hardware.accelerator_type) {
            (Provider::Cuda(_), Some(name)) => format!("{} ({name})", self.provider),
            (Provider::Cuda(_), None) => self.provider.to_string(),
            (Provider::Cpu, _) => {
                let options =
                    setup::engine_options(self.common, self.provider, 0, WeightsMode::Mapped);
                format!(
                    "cpu, {} threads, {} weights",
                    options.threads, options.weights
                )
            }
        };
        let variants = jobs.iter().flat_map(|job| &job.variants);
        let manifest = variants.map(|variant| &variant.manifest).next();
        let compute = match manifest {
            Some(m) if m.compute != m.dtype => format!(" (computed in {})", m.compute),
            _ => String::new(),
        };
        let quantization = manifest.and_then(Manifest::quantization);
        let quantized = quantization.map_or(String::new(), |q| format!(", {} weights", q.label()));
        let batch = match config.batch_sizes[0] {
            1 => String::new(),
            size => format!(", batches of {size}"),
        };
        let name = match jobs {
            [job] => job.stem.clone(),
            several => format!("{} experiments", several.len()),
        };
        format!(
            "{name} on {}, {}{compute}{quantized}, {place}{batch}, ONNX Runtime {}",
            config.model_id, config.dtype, measured.library.version
        )
    }
}

impl Job {
    fn manifests(&self) -> BTreeMap<Variant, Manifest> {
        let variants = self.variants.iter().map(|one| &one.manifest);
        variants.map(|m| (m.variant, m.clone())).collect()
    }
}

/// The records of a job, the base's among them.
fn records_of(records: &[VariantRecord], job: &Job) -> Vec<VariantRecord> {
    let own = |record: &&VariantRecord| {
        let experiment = record.experiment.as_ref();
        experiment.is_none_or(|experiment| *experiment == job.label)
    };
    records.iter().filter(own).cloned().collect()
}

/// Makes what sessions need beside the variants' folders, so that none takes longer to open because it's the first.
fn make_ready(plan: &mut MeasurePlan) -> Result<()> {
    for entrant in &mut plan.entrants {
        setup::lay_out(&mut entrant.prepared, &plan.options)?;
    }
    Ok(())
}

/// Checks that every variant runs with every batch size.
fn check_batches(config: &BenchmarkConfig, jobs: &[Job]) -> Result<()> {
    let variants = jobs.iter().flat_map(|job| &job.variants);
    let mut adapters = variants.filter_map(|variant| variant.manifest.adapter.as_ref());
    let prefix = adapters.any(|adapter| matches!(adapter.prompt, Some(PromptKind::Prefix(_))));
    match config.batch_sizes.iter().find(|size| **size > 1) {
        Some(&batch_size) if prefix => Err(EngineError::PrefixBatch { batch_size }.into()),
        _ => Ok(()),
    }
}

impl Measured {
    /// How a job's measurement ended, and why not well.
    fn judge(&self, index: usize, job: &Job) -> (Status, Option<String>) {
        let parity = self.comparisons[index].parity.as_ref();
        let wrong = parity.filter(|parity| !parity.passed);
        let wrong =
            wrong.map(|parity| format!("parity check failed: {}", parity.failures.join("; ")));
        match &self.outcome {
            Err(WorkerError::Interrupted) => (Status::Cancelled, Some("interrupted".to_owned())),
            Err(error) => (Status::Failed, Some(error.to_string())),
            Ok(()) => {
                let main = records_of(&self.records, job).into_iter();
                let main = main.filter_map(|record| record.error);
                let mut errors = main.chain(self.sweep.iter().flat_map(|run| {
                    let size = run.batch_size;
                    let records = records_of(&run.records, job).into_iter();
                    let errors = records.filter_map(|record| record.error);
                    errors.map(move |error| format!("with batches of {size}: {error}"))
                }));
                let swap = match &self.swaps[index] {
                    Some(SwapResult::Failed(error)) => Some(format!("swapping: {error}")),
                    _ => None,
                };
                match errors.next().or(swap).or(wrong) {
                    Some(error) => (Status::Failed, Some(error)),
                    None => (Status::Success, None),
                }
            }
        }
    }
}

fn nothing(outcome: Result<(), WorkerError>) -> Measurement {
    Measurement {
        records: Vec::new(),
        precision: None,
        outcome,
    }
}
