//! The result files of a trial's cases, of those too that failed.

use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use super::case::PreparedCase;
use super::setup::Setup;
use super::trial_run::Measured;
use super::{Study, StudyError};
use crate::config::BenchmarkConfig;
use crate::engine::{EngineOptions, Provider, WeightsMode};
use crate::measure::timed_tokens::timed_tokens;
use crate::report::{self, Figures, Report, ReportInput, Status};
use crate::system::{Hardware, SystemInfo};

/// A case's result, and its file.
#[derive(Debug)]
#[non_exhaustive]
pub struct CaseResult {
    /// What the case is called: `<method>--<name>`.
    pub name: String,
    /// What it's called where several are measured together.
    pub label: String,
    /// The result.
    pub report: Report,
    /// The file that it was written to.
    pub path: PathBuf,
}

/// Writes results. It knows when their measurement began, and on what machine.
pub(super) struct ResultFiles<'a> {
    pub study: &'a Study,
    pub setup: &'a Setup<'a>,
    pub provider: Provider,
    pub hardware: Hardware,
    pub system: SystemInfo,
    started: Instant,
    timestamp: String,
}

impl<'a> ResultFiles<'a> {
    /// The results of a measurement that begins now.
    pub fn new(study: &'a Study, setup: &'a Setup<'a>, provider: Provider) -> Self {
        Self {
            study,
            setup,
            provider,
            hardware: Hardware::collect(study.settings.device),
            system: SystemInfo::collect(),
            started: Instant::now(),
            timestamp: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        }
    }

    /// How sessions are opened to measure.
    pub fn options(&self, config: &BenchmarkConfig) -> EngineOptions {
        let options = self
            .setup
            .engine_options(self.provider, 0, WeightsMode::Mapped);
        EngineOptions {
            batch_size: config.batch_sizes[0],
            ..options
        }
    }

    /// Records an error that came before anything was measured.
    pub fn failed<'s>(
        &self,
        config: &BenchmarkConfig,
        result_stems: impl IntoIterator<Item = &'s str>,
        error: StudyError,
    ) -> StudyError {
        let options = self.options(config);
        let mut input = self.input(config, &options, Status::Failed, Some(error.in_full()));
        for result_stem in result_stems {
            let name = self.name(config, result_stem);
            input.settings.clone_from(&name.settings);
            let nothing = Report::new(&input, &Figures::default(), None);
            if let Err(second) = report::write(&self.study.output, &name, &nothing) {
                return StudyError::Unwritten {
                    write: second.to_string(),
                    source: Box::new(error),
                };
            }
        }
        error
    }

    /// Writes the result of a case, the one with this index in what was `measured`.
    pub fn write(
        &self,
        config: &BenchmarkConfig,
        measured: &Measured,
        figures: &Figures,
        index: usize,
        case: &PreparedCase,
    ) -> Result<CaseResult, StudyError> {
        let own = case.records(&measured.records);
        let tokens = timed_tokens(&measured.comparisons[index], &own);
        let (status, error) = measured.judge(index, case, &tokens);
        let options = EngineOptions {
            gpu_layers: measured.gpu_layers,
            ..self.options(config)
        };
        let mut input = self.input(config, &options, status, error);
        let name = self.name(config, &case.result_stem);
        input.settings.clone_from(&name.settings);
        input.library = Some(&measured.library);
        input.tokenizer = Some(measured.tokenizer.in_result());
        input.base_is_cached = measured.base_is_cached;
        input.manifests = case.manifests();
        input.absent = case.absent.clone();
        input.precision = measured.precision;
        input.interference = measured.interference;
        input.rounds = measured.rounds;
        input.quiet_gate = measured.quiet_gate;
        input.environment = measured.environment.as_ref();
        input.energy_method = measured.energy_method;
        input.parity = measured.comparisons[index].parity.as_ref();
        input.timed_tokens = input.parity.map(|_| &tokens);
        input.graphs = Some(&measured.comparisons[index].graphs);
        input.not_lowered = Some(&measured.comparisons[index].not_lowered);
        input.swap = measured.swaps[index].as_ref();
        input.serving = measured.serving[index].as_ref();
        let report = Report::new(&input, figures, Some(&case.label));
        let path = report::write(&self.study.output, &name, &report).map_err(|source| {
            // What was measured isn't lost with a disk that filled up meanwhile.
            let is_whole = report.run_info.status == Status::Success;
            match is_whole.then(|| report::rescue(&name, &report)) {
                Some(Ok(path)) => StudyError::Rescued { path, source },
                _ => source.into(),
            }
        })?;
        Ok(CaseResult {
            name: case.stem.clone(),
            label: case.label.clone(),
            path,
            report,
        })
    }

    fn input<'b>(
        &'b self,
        config: &BenchmarkConfig,
        options: &'b EngineOptions,
        status: Status,
        error: Option<String>,
    ) -> ReportInput<'b> {
        let mut benchmark_config = config.to_json();
        if options.provider != Provider::Cpu
            && let Some(keys) = benchmark_config.as_object_mut()
        {
            // Not chosen there, and refused where these parameters are used again.
            keys.shift_remove("quantization_accuracy_level");
        }
        ReportInput {
            duration: self.started.elapsed().as_secs_f64(),
            error,
            seed: config.seed,
            ..ReportInput::new(
                self.timestamp.clone(),
                status,
                benchmark_config,
                &self.hardware,
                &self.system,
                options,
            )
        }
    }
}
