//! A study: what's measured and how, from the settings to the results. It knows neither a command
//! line nor a terminal.
//!
//! ```text
//! Study       settings, and targets as they're named
//!   Case      a target with its parameters; it gets a result of its own
//!   Trial     cases that are measured together, in turn and against one base
//!     Variant     what is prepared of a case: base, merged, unmerged
//!     Subject     what takes part in the measurement: a variant, the base again, the unmerged graph with zeros
//! Observer    is told what happens
//! ```
//!
//! [`Setup`] makes of settings what the program's other commands need too: targets, parameters,
//! base models, preparations, sessions, tokenizers.

mod base_cache;
mod case;
mod error;
mod exported;
mod judge;
mod named_base;
mod observer;
mod parameters;
mod prepare_case;
mod prepared_folder;
mod prompt_source;
mod prompt_warnings;
mod result_files;
mod result_name;
mod room;
mod serving;
mod sessions;
mod settings;
mod setup;
mod subjects;
mod swaps;
mod sweep;
mod target;
mod task;
mod tokenizer;
mod trial;
mod trial_run;
mod worker;

use std::path::PathBuf;

pub use error::{Busy, StudyError};
pub use observer::{Event, Note, Observer};
pub use parameters::StudyParametersError;
pub use prepared_folder::PreparedFolderError;
pub use prompt_source::{PromptError, PromptSource};
pub use prompt_warnings::PromptWarning;
pub use result_files::CaseResult;
pub use room::GpuRoom;
pub use serving::{MixedChoice, ServingChoice};
pub use sessions::SessionError;
pub use settings::{GpuLayers, ProviderChoice, Settings};
pub use setup::SetupError;
pub use target::TargetError;
pub use task::TaskError;
pub use tokenizer::{TokenizerChoice, TokenizerChoiceError, TokenizerDifference, TokenizerPlace};
pub use worker::become_worker;

pub(crate) use prepared_folder::check_provider;
pub(crate) use setup::Setup;
pub(crate) use target::Target;
pub(crate) use task::{check_prepared, check_variants};

use crate::config::BenchmarkConfig;
use crate::measure::client::Interrupt;
use crate::measure::quiet::QuietGate;
use crate::measure::session::PrecisionGoal;
use crate::onnxruntime::Provider;
use case::{Case, PreparedCase};
use result_files::ResultFiles;
use trial::Trial;
use trial_run::TrialRun;

/// What's measured, and how.
#[derive(Debug, Clone)]
pub struct Study {
    /// Experiments, prepared folders, or folders of merged Hugging Face checkpoints; adapters and
    /// checkpoints may be hub ids. Without any, the base is measured by itself.
    pub targets: Vec<PathBuf>,
    /// How models are found, prepared and run.
    pub settings: Settings,
    /// Prompts in place of `prompts/prompts.json`.
    pub prompts: Option<PathBuf>,
    /// Which tokenizer the prompts go through.
    pub tokenizer: TokenizerChoice,
    /// Batch sizes in place of those of the parameters, each once. The first is that of the main
    /// figures; all are in the sweep. If it's empty, those of the parameters are taken.
    pub batch_sizes: Vec<usize>,
    /// The task of an adapter that has several, in place of that of the parameters.
    pub task_id: Option<usize>,
    /// Context lengths, in tokens, that are measured as well, each once.
    pub contexts: Vec<usize>,
    /// If set, this number of adapters take turns in one open session, as a further measurement.
    pub swap: Option<usize>,
    /// What of serving is measured as well.
    pub serving: ServingChoice,
    /// Whether the base is measured against itself as well.
    pub aa: bool,
    /// Whether the unmerged graph is measured with an adapter of zeros as well.
    pub empty: bool,
    /// Whether an earlier measurement of the base will do, of exactly this configuration.
    pub cached_base: bool,
    /// How often all processes are started anew, so that what differs between starts is in the
    /// intervals; at least 1.
    pub restarts: usize,
    /// If set, rounds are added until it's reached; where there are several starts, further starts.
    pub precision_goal: Option<PrecisionGoal>,
    /// If set, measuring waits until the machine is quiet.
    pub quiet_gate: Option<QuietGate>,
    /// The folder of result files.
    pub output: PathBuf,
    /// The program that is started as worker processes; `None` for the running one, which then
    /// calls [`become_worker`] first.
    pub worker: Option<PathBuf>,
    /// Stops the study from another thread.
    pub interrupt: Interrupt,
}

impl Default for Study {
    fn default() -> Self {
        Self {
            targets: Vec::new(),
            settings: Settings::default(),
            prompts: None,
            tokenizer: TokenizerChoice::Usual,
            batch_sizes: Vec::new(),
            task_id: None,
            contexts: Vec::new(),
            swap: None,
            serving: ServingChoice::default(),
            aa: false,
            empty: false,
            cached_base: false,
            restarts: 1,
            precision_goal: None,
            quiet_gate: None,
            output: PathBuf::from("results"),
            worker: None,
            interrupt: Interrupt::default(),
        }
    }
}

impl Study {
    /// Measures all targets, and writes and returns a result for each: experiments with the same
    /// parameters together, whatever else there is by itself.
    ///
    /// # Errors
    /// If a target can't be measured, or something is wrong with its measurement. Where there are
    /// several targets, the others are measured all the same, and the error names those that
    /// failed. A target that fails once its parameters are known has a result too, with its error.
    pub fn run(&self, observer: &mut dyn Observer) -> Result<Vec<CaseResult>, StudyError> {
        let setup = Setup::new(&self.settings, observer);
        let mut failures = Failures {
            single: self.targets.len() <= 1,
            setup: &setup,
            names: Vec::new(),
        };
        let mut cases: Vec<Case> = Vec::new();
        if self.targets.is_empty() {
            cases.push(Case::base(self, &setup)?);
        }
        for target in &self.targets {
            match Case::find(self, &setup, target) {
                Ok(case) if cases.iter().any(|other| other.is_same(&case)) => {}
                Ok(case) => cases.push(case),
                Err(error) => failures.add(&target.display().to_string(), error)?,
            }
        }
        let mut results = Vec::new();
        let trials = Trial::of(cases);
        for trial in &trials {
            results.extend(self.run_trial(&setup, trial, &mut failures)?);
        }
        match failures.names.is_empty() {
            true => Ok(results),
            false => Err(StudyError::Targets(failures.names)),
        }
    }

    fn run_trial<'a>(
        &'a self,
        setup: &'a Setup<'a>,
        trial: &'a Trial,
        failures: &mut Failures,
    ) -> Result<Vec<CaseResult>, StudyError> {
        let mut cases = Vec::new();
        let mut found = None;
        for (case, label) in trial.cases.iter().zip(trial.labels()) {
            let provider = match found {
                Some(provider) => Ok(provider),
                None => setup.provider(case.config.dtype).map_err(StudyError::from),
            };
            let prepared = provider.and_then(|provider| {
                found = Some(provider);
                self.prepare_case(setup, case, provider, label)
            });
            match prepared {
                Ok(prepared) => cases.push(prepared),
                Err(error) => failures.add(&case.name, error)?,
            }
        }
        let (Some(provider), false) = (found, cases.is_empty()) else {
            return Ok(Vec::new());
        };
        exported::settle(&mut cases);
        let stems: Vec<String> = cases.iter().map(|case| case.stem.clone()).collect();
        let run = TrialRun {
            files: ResultFiles::new(self, setup, provider),
            config: &trial.cases[0].config,
            cases,
        };
        match run.measure() {
            // The other trials would find the same machine.
            Err(error @ (StudyError::Interrupted | StudyError::Busy(_))) => Err(error),
            Err(error) => {
                failures.add(&stems.join(", "), error)?;
                Ok(Vec::new())
            }
            Ok(results) => Ok(results),
        }
    }

    /// Prepares a case. If that fails, it has a result that says so.
    fn prepare_case<'a>(
        &'a self,
        setup: &'a Setup<'a>,
        case: &Case,
        provider: Provider,
        label: String,
    ) -> Result<PreparedCase, StudyError> {
        case.prepare(self, setup, provider, label).map_err(|error| {
            let files = ResultFiles::new(self, setup, provider);
            files.failed(&case.config, [case.result_stem.as_str()], error)
        })
    }

    fn choose_batches(&self, config: &mut BenchmarkConfig) {
        if !self.batch_sizes.is_empty() {
            config.batch_sizes.clone_from(&self.batch_sizes);
        }
    }

    /// Whether the base is measured by itself.
    fn is_of_base(&self) -> bool {
        self.targets.is_empty()
    }
}

/// Targets that failed.
struct Failures<'a> {
    /// There's one target, and its error ends the study.
    single: bool,
    setup: &'a Setup<'a>,
    names: Vec<String>,
}

impl Failures<'_> {
    fn add(&mut self, targets: &str, error: StudyError) -> Result<(), StudyError> {
        if self.single {
            return Err(error);
        }
        self.setup.tell(Event::Failed {
            targets,
            error: &error,
        });
        self.names.push(targets.to_owned());
        Ok(())
    }
}
