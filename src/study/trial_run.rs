//! A trial's measurement, from its plan to everything that was measured.

use std::path::Path;

use super::StudyError;
use super::base_cache::{BaseCache, CacheKey};
use super::case::PreparedCase;
use super::error::Busy;
use super::observer::{Event, Note};
use super::prompt_source::{PromptSource, check_room};
use super::prompt_warnings::prompt_warnings;
use super::result_files::{CaseResult, ResultFiles};
use super::room;
use super::tokenizer::TokenizerPlace;
use crate::config::BenchmarkConfig;
use crate::engine::{DecoderEngine, Provider};
use crate::measure::bandwidth::{DeviceCopier, RateMeter, WeightsReader};
use crate::measure::client::WorkerError;
use crate::measure::energy::{EnergyMethod, SystemMeter};
use crate::measure::interference::{Interference, InterferenceWatch};
use crate::measure::protocol::ParityCheck;
use crate::measure::quiet::{GateOutcome, QuietGate, WhenBusy};
use crate::measure::record::{PromptPlan, SubjectRecord};
use crate::measure::rounds::{RoundLooks, RoundWatch};
use crate::measure::serving::Serving;
use crate::measure::session::{MeasurePlan, Measurement, Meters, Progress, ReachedPrecision};
use crate::measure::subject::Subject;
use crate::measure::swap::SwapResult;
use crate::measure::sweep::SweepRun;
use crate::onnxruntime::library::Library;
use crate::prepared::PreparedVariant;
use crate::report::{self, Figures};
use crate::system::environment::GpuWatch;
use crate::system::{Environment, EnvironmentWatch};

/// A trial whose cases are ready to run.
pub(super) struct TrialRun<'a> {
    pub files: ResultFiles<'a>,
    /// The parameters of all its cases.
    pub config: &'a BenchmarkConfig,
    pub cases: Vec<PreparedCase>,
}

/// What was measured in a trial.
pub(super) struct Measured {
    /// One a subject.
    pub records: Vec<SubjectRecord>,
    /// One a batch size, where there are several or prompts of given lengths.
    pub sweep: Vec<SweepRun>,
    /// One a case, where swaps were asked for.
    pub swaps: Vec<Option<SwapResult>>,
    /// One a case, where something of serving was asked for.
    pub serving: Vec<Option<Serving>>,
    /// One a case.
    pub comparisons: Vec<ParityCheck>,
    /// What came of the precision that was asked for.
    pub precision: Option<ReachedPrecision>,
    /// What else kept the cores busy.
    pub interference: Option<Interference>,
    /// Whether others stayed quiet from round to round.
    pub rounds: Option<RoundLooks>,
    /// What came of waiting for a quiet machine, if that was asked for.
    pub quiet_gate: Option<GateOutcome>,
    /// The state of the machine that times depend on, if something was measured.
    pub environment: Option<Environment>,
    /// Where energy was read.
    pub energy_method: Option<EnergyMethod>,
    /// What ended it early.
    pub outcome: Result<(), WorkerError>,
    /// Whether the base's record is that of an earlier measurement.
    pub base_is_cached: bool,
    /// The layers that are on the GPU if not all are.
    pub gpu_layers: Option<usize>,
    /// ONNX Runtime.
    pub library: Library,
    /// The tokenizer of the prompts.
    pub tokenizer: TokenizerPlace,
}

impl TrialRun<'_> {
    /// Measures its cases, and writes a result for each.
    pub fn measure(self) -> Result<Vec<CaseResult>, StudyError> {
        let measured = match self.run() {
            Ok(measured) => measured,
            // Nothing was measured, and nothing is written.
            Err(error @ (StudyError::Busy(_) | StudyError::Interrupted | StudyError::Write(_))) => {
                return Err(error);
            }
            Err(error) => {
                let stems = self.cases.iter().map(|case| case.result_stem.as_str());
                return Err(self.files.failed(self.config, stems, error));
            }
        };
        let paired = !measured.base_is_cached;
        let (records, sweep) = (&measured.records, &measured.sweep);
        let figures = Figures::new(records, sweep, paired, self.config.seed);
        let cases = self.cases.iter().enumerate();
        let written: Vec<_> = cases
            .map(|(index, case)| {
                let files = &self.files;
                files.write(self.config, &measured, &figures, index, case)
            })
            .collect();
        // All of them are tried.
        let results = written.into_iter().collect::<Result<Vec<_>, _>>()?;
        let setup = self.files.setup;
        if let Err(WorkerError::Interrupted) = measured.outcome {
            setup.tell(Event::Interrupted { results: &results });
            return Err(StudyError::Interrupted);
        }
        setup.tell(Event::Measured { results: &results });
        let errors = results.iter().filter_map(|result| {
            let error = result.report.run_info.error.as_ref()?;
            Some(format!("{error} (see {})", result.path.display()))
        });
        let errors: Vec<String> = errors.collect();
        match errors.is_empty() {
            true => Ok(results),
            false => Err(StudyError::Measurement(errors.join("; "))),
        }
    }

    /// The variants of all cases.
    pub fn variants(&self) -> impl Iterator<Item = &PreparedVariant> {
        self.cases.iter().flat_map(|case| &case.variants)
    }

    /// Measures everything that was asked for.
    fn run(&self) -> Result<Measured, StudyError> {
        let (study, setup) = (self.files.study, self.files.setup);
        let (mut plan, contexts, tokenizer) = self.plan()?;
        if let Provider::Cuda(_) = self.files.provider {
            let memory = self.files.hardware.accelerator_memory_mb;
            let asked = setup.settings.gpu_layers;
            let rows = self.longest(plan.prompts.iter().chain(&contexts));
            let found = room::layers_on_gpu(&plan.subjects, rows, memory, asked)?;
            if let Some(found) = found {
                plan.options.gpu_layers = Some(found.layers);
                setup.note(Note::LayersOnCpu(&found));
            }
        }
        let mut sweep = self.sweep_plans(&plan, contexts);
        for plan in std::iter::once(&mut plan).chain(&mut sweep) {
            self.make_ready(plan)?;
        }
        // Before this program computes on the GPU.
        let gpu = match self.files.provider {
            Provider::Cuda(device) => GpuWatch::open(device),
            Provider::Cpu => None,
        };
        let memory = memory_meter(self.files.provider, &plan);
        let comparisons = self.compare(&plan);

        let cache = BaseCache::new(&study.output);
        let key = self.base_key(&plan);
        let mut cached = None;
        if study.cached_base {
            cached = key.as_ref().and_then(|key| cache.get(key));
            match &cached {
                Some(_) => plan.subjects.retain(|one| one.subject != Subject::Base),
                None => setup.note(Note::NoCachedBase),
            }
        }
        if study.is_of_base() && cached.is_some() {
            setup.note(Note::BaseIsCached);
        }

        let is_measured = comparisons.is_ok() && !plan.subjects.is_empty();
        let quiet_gate = match &study.quiet_gate {
            Some(gate) if is_measured => Some(self.wait_until_quiet(gate)?),
            _ => None,
        };
        report::check_writable(&study.output)?;
        let watch = InterferenceWatch::start();
        let environment = is_measured.then(|| EnvironmentWatch::start(Path::new("/"), gpu));
        let rounds = RoundWatch::start(&study.interrupt);
        let meter = SystemMeter::new(self.files.provider);
        let before_round = || {
            rounds.as_ref().inspect(|watch| watch.look());
            environment.as_ref().inspect(|watch| watch.look());
        };
        let meters = Meters {
            energy: &meter,
            memory: memory.as_ref(),
            before_round: &before_round,
        };
        let (comparisons, measurement) = match comparisons {
            Err(interrupted) => (
                vec![ParityCheck::default(); self.cases.len()],
                nothing(Err(interrupted)),
            ),
            Ok(comparisons) if plan.subjects.is_empty() => (comparisons, nothing(Ok(()))),
            Ok(comparisons) => (comparisons, self.run_plan(&plan, meters)),
        };
        let Measurement {
            records,
            precision,
            outcome,
        } = measurement;
        let base_is_cached = cached.is_some();
        let records: Vec<SubjectRecord> = cached.into_iter().chain(records).collect();
        if outcome.is_ok() && !base_is_cached {
            self.keep_base(&cache, key.as_ref(), &records, &comparisons)?;
        }
        let (sweep, outcome) = match outcome {
            Ok(()) => self.sweep(sweep, meters, &records, !base_is_cached),
            Err(error) => (Vec::new(), Err(error)),
        };
        let (swaps, outcome) = match (study.swap, outcome) {
            (Some(count), Ok(())) => match self.swaps(&plan, count)? {
                Ok(swaps) => (swaps, Ok(())),
                Err(interrupted) => (vec![None; self.cases.len()], Err(interrupted)),
            },
            (_, outcome) => (vec![None; self.cases.len()], outcome),
        };
        let (serving, outcome) = match outcome {
            Ok(()) if study.serving.any() => match self.serving(&plan)? {
                Ok(found) => (found.into_iter().map(Some).collect(), Ok(())),
                Err(interrupted) => (vec![None; self.cases.len()], Err(interrupted)),
            },
            outcome => (vec![None; self.cases.len()], outcome),
        };
        Ok(Measured {
            records,
            sweep,
            swaps,
            serving,
            comparisons,
            precision,
            interference: watch.and_then(|watch| watch.finish()),
            rounds: rounds.and_then(RoundWatch::finish),
            quiet_gate,
            environment: environment.map(EnvironmentWatch::finish),
            energy_method: meter.method(),
            outcome,
            base_is_cached,
            gpu_layers: plan.options.gpu_layers,
            library: plan.library,
            tokenizer,
        })
    }

    /// The most tokens of all sequences together, virtual ones too.
    fn longest<'p>(&self, prompts: impl Iterator<Item = &'p PromptPlan>) -> usize {
        let length = |prompt: &PromptPlan| prompt.prompt_ids.len() + prompt.new_tokens;
        let virtual_tokens = self.variants().map(|one| one.manifest.num_virtual_tokens());
        let longest = prompts.map(length).max().unwrap_or(0) + virtual_tokens.max().unwrap_or(0);
        let sequences = self.config.batch_sizes.iter().copied().max();
        longest * sequences.unwrap_or(1)
    }

    /// Waits until the machine is quiet. If it doesn't become so, that's an error, or it's told.
    fn wait_until_quiet(&self, gate: &QuietGate) -> Result<GateOutcome, StudyError> {
        let (setup, interrupt) = (self.files.setup, &self.files.study.interrupt);
        let waited = gate.wait(interrupt, &|look| {
            setup.tell(Event::Waiting { gate, look });
        });
        let Some(waited) = waited else {
            return Err(match interrupt.is_raised() {
                true => StudyError::Interrupted,
                false => StudyError::UntoldOthers,
            });
        };
        setup.tell(Event::Waited {
            gate,
            waited: &waited,
        });
        match (waited.quiet, gate.otherwise) {
            (false, WhenBusy::Refuse) => Err(StudyError::Busy(Box::new(Busy {
                gate: *gate,
                waited,
            }))),
            _ => Ok(gate.outcome(&waited)),
        }
    }

    /// The plan of the main measurement, the prompts of the contexts that were asked for, and the
    /// tokenizer of both.
    fn plan(&self) -> Result<(MeasurePlan, Vec<PromptPlan>, TokenizerPlace), StudyError> {
        let (study, setup) = (self.files.study, self.files.setup);
        let variants: Vec<&PreparedVariant> = self.variants().collect();
        let tokenizer = study.tokenizer.place_of(&variants)?;
        let source = PromptSource::open(setup, study.prompts.as_deref(), &tokenizer)?;
        let prompts = source.categories(self.config)?;
        let contexts = source.contexts(self.config, &study.contexts)?;
        for prompts in [&prompts, &contexts] {
            check_room(prompts, variants.iter().copied())?;
            for variant in &variants {
                for plan in prompts {
                    tokenizer.check_vocabulary(&plan.prompt_ids, &variant.manifest)?;
                }
            }
        }
        for caveat in prompt_warnings(&prompts) {
            setup.note(Note::Prompts(&caveat));
        }
        self.check_batches()?;
        let library = setup.library(self.files.provider)?;
        let program = match &study.worker {
            Some(program) => program.clone(),
            None => std::env::current_exe().map_err(StudyError::Program)?,
        };
        let plan = MeasurePlan {
            program,
            library,
            subjects: self.subjects()?,
            prompts,
            runs: self.config.num_inference_runs,
            starts: study.restarts,
            options: self.files.options(self.config),
            seed: self.config.seed,
            goal: study.precision_goal,
        };
        Ok((plan, contexts, tokenizer))
    }

    /// Keeps the base's record for later studies, unless something is wrong with it or it has more
    /// runs than were planned.
    fn keep_base(
        &self,
        cache: &BaseCache,
        key: Option<&CacheKey>,
        records: &[SubjectRecord],
        comparisons: &[ParityCheck],
    ) -> Result<(), StudyError> {
        let mut parities = comparisons.iter().filter_map(|one| one.parity.as_ref());
        let good = parities.all(|parity| parity.passed);
        let base = records.iter().find(|one| one.variant == Subject::Base);
        match (key, base) {
            (Some(key), Some(base))
                if good && base.error.is_none() && self.files.study.precision_goal.is_none() =>
            {
                match cache.put(key, base) {
                    Err(error) if self.files.study.is_of_base() => {
                        Err(StudyError::BaseMeasurement(error))
                    }
                    // A later study measures it anew; this one goes on.
                    Err(error) => {
                        self.files.setup.note(Note::BaseNotKept(&error));
                        Ok(())
                    }
                    Ok(()) => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// Runs `plan`, and tells how it goes.
    pub(super) fn run_plan(&self, plan: &MeasurePlan, meters: Meters) -> Measurement {
        let setup = self.files.setup;
        let interrupt = &self.files.study.interrupt;
        let measured = plan.run(interrupt, meters, &|progress| {
            setup.tell(Event::Progress(progress))
        });
        setup.tell(Event::ProgressEnded);
        measured
    }

    /// Compares what the variants of each case compute.
    fn compare(&self, plan: &MeasurePlan) -> Result<Vec<ParityCheck>, WorkerError> {
        let (study, setup) = (self.files.study, self.files.setup);
        setup.tell(Event::Progress(Progress::Comparing));
        let several = self.cases.len() > 1;
        let reference = super::exported::reference(&self.cases);
        let compare = |case: &PreparedCase| match (case.exported(), &reference) {
            (Some(exported), Some((name, reference))) => {
                plan.exported_parity(name, reference, exported, &study.interrupt)
            }
            _ => plan.parity(several.then_some(case.label.as_str()), &study.interrupt),
        };
        let compared = self.cases.iter().map(compare).collect();
        setup.tell(Event::ProgressEnded);
        compared
    }

    /// Makes what sessions need besides the variants' folders, so that none takes longer to open
    /// because it's the first.
    fn make_ready(&self, plan: &mut MeasurePlan) -> Result<(), StudyError> {
        for subject in &mut plan.subjects {
            let prepared = &mut subject.prepared;
            self.files.setup.lay_out(prepared, &plan.options)?;
        }
        Ok(())
    }

    /// Checks that every variant runs with every batch size.
    fn check_batches(&self) -> Result<(), StudyError> {
        for variant in self.variants() {
            for &size in &self.config.batch_sizes {
                DecoderEngine::check_batch(&variant.manifest, size)?;
            }
        }
        Ok(())
    }

    fn base_key(&self, plan: &MeasurePlan) -> Option<CacheKey> {
        let mut subjects = plan.subjects.iter();
        let base = subjects.find(|one| one.subject == Subject::Base)?;
        Some(CacheKey::new(
            &base.prepared.manifest,
            &plan.prompts,
            [plan.runs, plan.starts],
            &plan.options,
            &plan.library,
            &self.files.hardware,
            &self.files.system,
        ))
    }
}

/// What tells the rate of the memory in which the weights are.
fn memory_meter(provider: Provider, plan: &MeasurePlan) -> Box<dyn RateMeter> {
    fn boxed(meter: Option<impl RateMeter + 'static>) -> Box<dyn RateMeter> {
        match meter {
            Some(meter) => Box::new(meter),
            None => Box::new(()),
        }
    }
    match (provider, plan.subjects.first()) {
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

/// A measurement that wasn't made.
fn nothing(outcome: Result<(), WorkerError>) -> Measurement {
    Measurement {
        records: Vec::new(),
        precision: None,
        outcome,
    }
}
