//! One measurement, from its plan to everything that was measured.

use anyhow::{Context, Result};

use super::{Benchmark, Job};
use crate::cli::measure_progress::MeasureProgress;
use crate::cli::progress::message;
use crate::cli::prompt_doubts::prompt_doubts;
use crate::cli::prompt_plans::{PromptSource, check_room};
use crate::cli::setup;
use crate::cli::tokenizer::TokenizerPlace;
use crate::config::BenchmarkConfig;
use crate::engine::{DecoderEngine, Provider};
use crate::measure::bandwidth::{DeviceCopier, RateMeter, WeightsReader};
use crate::measure::client::WorkerError;
use crate::measure::energy::{EnergyMethod, SystemMeter};
use crate::measure::interference::{Interference, InterferenceWatch};
use crate::measure::protocol::ParityCheck;
use crate::measure::record::SubjectRecord;
use crate::measure::session::{MeasurePlan, Measurement, Meters, Progress, ReachedPrecision};
use crate::measure::subject::Subject;
use crate::measure::swap::SwapResult;
use crate::measure::sweep::SweepRun;
use crate::onnxruntime::library::Library;
use crate::prepared::PreparedVariant;
use crate::report::{BaseCache, CacheKey};

/// What was measured.
pub(super) struct Measured {
    pub records: Vec<SubjectRecord>,
    pub sweep: Vec<SweepRun>,
    /// One a job, where swaps were asked for.
    pub swaps: Vec<Option<SwapResult>>,
    /// One a job.
    pub comparisons: Vec<ParityCheck>,
    pub precision: Option<ReachedPrecision>,
    pub interference: Option<Interference>,
    pub energy_method: Option<EnergyMethod>,
    pub outcome: Result<(), WorkerError>,
    pub base_is_cached: bool,
    pub library: Library,
    /// The tokenizer of the prompts.
    pub tokenizer: TokenizerPlace,
}

impl Benchmark<'_> {
    /// Measures everything that was asked for.
    pub(super) fn run(&self, config: &BenchmarkConfig, jobs: &mut [Job]) -> Result<Measured> {
        let variants: Vec<&PreparedVariant> = jobs.iter().flat_map(|job| &job.variants).collect();
        let tokenizer = self.tokenizer.place_of(&variants)?;
        let source = PromptSource::open(self.prompts, &tokenizer)?;
        let prompts = source.categories(config)?;
        let contexts = source.contexts(config, self.contexts)?;
        for prompts in [&prompts, &contexts] {
            check_room(prompts, variants.iter().copied())?;
            for variant in &variants {
                for plan in prompts {
                    tokenizer.check_vocabulary(&plan.prompt_ids, &variant.manifest)?;
                }
            }
        }
        for doubt in prompt_doubts(&prompts) {
            message(&format!("warning: {doubt}"));
        }
        check_batches(config, jobs)?;
        let library = setup::library(self.common, self.provider)?;
        let options = self.options(config);
        let mut plan = MeasurePlan {
            program: std::env::current_exe().context("cannot find this program's own file")?,
            library: library.clone(),
            subjects: self.subjects(jobs)?,
            prompts,
            runs: config.num_inference_runs,
            options,
            seed: config.seed,
            goal: self.target,
        };
        let mut sweep = self.sweep_plans(config, &plan, contexts);
        for plan in std::iter::once(&mut plan).chain(&mut sweep) {
            make_ready(plan)?;
        }
        let memory = self.memory_meter(&plan);

        let comparisons = {
            let progress = MeasureProgress::default();
            progress.report(Progress::Comparing);
            let several = jobs.len() > 1;
            jobs.iter()
                .map(|job| plan.parity(several.then_some(job.label.as_str()), self.interrupt))
                .collect::<Result<Vec<ParityCheck>, WorkerError>>()
        };
        let cache = BaseCache::new(&self.common.output);
        let key = self.base_key(&plan);
        let mut cached = None;
        if self.cached_base {
            cached = key.as_ref().and_then(|key| cache.get(key));
            match &cached {
                Some(_) => plan.subjects.retain(|one| one.subject != Subject::Base),
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
            memory: memory.as_ref(),
        };
        let progress = MeasureProgress::default();
        let (comparisons, measurement) = match comparisons {
            Err(interrupted) => (
                vec![ParityCheck::default(); jobs.len()],
                nothing(Err(interrupted)),
            ),
            Ok(comparisons) if plan.subjects.is_empty() => (comparisons, nothing(Ok(()))),
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
        let records: Vec<SubjectRecord> = cached.into_iter().chain(records).collect();
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
            tokenizer,
        })
    }

    /// What tells the rate of the memory in which the weights are.
    fn memory_meter(&self, plan: &MeasurePlan) -> Box<dyn RateMeter> {
        fn boxed(meter: Option<impl RateMeter + 'static>) -> Box<dyn RateMeter> {
            match meter {
                Some(meter) => Box::new(meter),
                None => Box::new(()),
            }
        }
        match (self.provider, plan.subjects.first()) {
            (Provider::Cuda(device), _) => boxed(DeviceCopier::open(device)),
            (Provider::Cpu, Some(first)) => {
                let manifest = &first.prepared.manifest;
                let bytes = manifest.reads.weight_bytes;
                boxed(WeightsReader::open(
                    &manifest.model_folder,
                    bytes,
                    plan.options.threads,
                ))
            }
            (Provider::Cpu, None) => Box::new(()),
        }
    }

    fn base_key(&self, plan: &MeasurePlan) -> Option<CacheKey> {
        let mut subjects = plan.subjects.iter();
        let base = subjects.find(|one| one.subject == Subject::Base)?;
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
}

/// Makes what sessions need beside the variants' folders, so that none takes longer to open because it's the first.
fn make_ready(plan: &mut MeasurePlan) -> Result<()> {
    for subject in &mut plan.subjects {
        setup::lay_out(&mut subject.prepared, &plan.options)?;
    }
    Ok(())
}

/// Checks that every variant runs with every batch size.
fn check_batches(config: &BenchmarkConfig, jobs: &[Job]) -> Result<()> {
    for variant in jobs.iter().flat_map(|job| &job.variants) {
        for &size in &config.batch_sizes {
            DecoderEngine::check_batch(&variant.manifest, size)?;
        }
    }
    Ok(())
}

/// A measurement that wasn't made.
fn nothing(outcome: Result<(), WorkerError>) -> Measurement {
    Measurement {
        records: Vec::new(),
        precision: None,
        outcome,
    }
}
