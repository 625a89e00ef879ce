//! Measuring prepared variants, with progress, a table, and a result file. Commands share it.

mod entrants;
mod job;
mod judge;
mod name;
mod report;
mod run;
mod swaps;
mod sweep;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Instant, SystemTime};

use anyhow::{Result, bail};
use serde_json::Map;

pub use job::Job;

use super::options::CommonOptions;
use super::output::print;
use super::progress::message;
use super::setup;
use super::tokenizer::TokenizerOptions;
use crate::config::BenchmarkConfig;
use crate::engine::{EngineOptions, Provider, WeightsMode};
use crate::measure::client::{Interrupt, WorkerError};
use crate::measure::session::PrecisionGoal;
use crate::report::{Figures, Report, ReportInput, Status};
use crate::system::{Hardware, SystemInfo};
use run::Measured;

/// How a command ended, if not by an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// What was asked for was done.
    Done,
    /// Ctrl-C.
    Interrupted,
}

/// One measurement, of one base and of one or more experiments, and their result files.
pub struct Benchmark<'a> {
    common: &'a CommonOptions,
    provider: Provider,
    prompts: Option<&'a Path>,
    tokenizer: &'a TokenizerOptions,
    interrupt: &'a Interrupt,
    hardware: Hardware,
    system: SystemInfo,
    started: Instant,
    timestamp: String,
    /// Go on until overheads are known so well.
    pub target: Option<PrecisionGoal>,
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

impl<'a> Benchmark<'a> {
    /// A measurement.
    pub fn new(
        common: &'a CommonOptions,
        provider: Provider,
        prompts: Option<&'a Path>,
        tokenizer: &'a TokenizerOptions,
        interrupt: &'a Interrupt,
    ) -> Self {
        Self {
            common,
            provider,
            prompts,
            tokenizer,
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
                let targets = jobs.iter().map(|job| job.target.as_str());
                return Err(self.failed(config, targets, error));
            }
        };
        let paired = !measured.base_is_cached;
        let figures = Figures::new(&measured.records, &measured.sweep, paired, config.seed);
        let mut reports = Vec::new();
        let mut paths = Vec::new();
        let mut errors = Vec::new();
        for (index, job) in jobs.iter().enumerate() {
            let report = self.report(config, &measured, &figures, index, job);
            let name = self.name(config, &job.target);
            let path = crate::report::write(&self.common.output, &name, &report)?;
            let error = report.run_info.error.as_ref();
            errors.extend(error.map(|error| format!("{error} (see {})", path.display())));
            paths.push(path.display().to_string());
            reports.push(report);
        }
        if let Err(WorkerError::Interrupted) = measured.outcome {
            let paths = paths.join(", ");
            message(&format!("interrupted; what was measured is in {paths}"));
            return Ok(Outcome::Interrupted);
        }
        print(&self.text(&jobs, &reports, &paths))?;
        if errors.is_empty() {
            return Ok(Outcome::Done);
        }
        bail!("{}", errors.join("; "))
    }

    /// Records an error that came before anything was measured.
    pub fn failed<'s>(
        &self,
        config: &BenchmarkConfig,
        targets: impl Iterator<Item = &'s str>,
        error: anyhow::Error,
    ) -> anyhow::Error {
        let options = self.options(config);
        let mut info = self.info(config, &options, Status::Failed, Some(format!("{error:#}")));
        for target in targets {
            let name = self.name(config, target);
            info.settings.clone_from(&name.settings);
            let nothing = Report::new(&info, &Figures::default(), None);
            if let Err(second) = crate::report::write(&self.common.output, &name, &nothing) {
                return error.context(format!("{second}"));
            }
        }
        error
    }

    fn options(&self, config: &BenchmarkConfig) -> EngineOptions {
        let mut options = setup::engine_options(self.common, self.provider, 0, WeightsMode::Mapped);
        options.batch_size = config.batch_sizes[0];
        options
    }

    fn report(
        &self,
        config: &BenchmarkConfig,
        measured: &Measured,
        figures: &Figures,
        index: usize,
        job: &Job,
    ) -> Report {
        let (status, error) = measured.judge(index, job);
        let options = self.options(config);
        let mut info = self.info(config, &options, status, error);
        let name = self.name(config, &job.target);
        info.settings.clone_from(&name.settings);
        info.library = Some(&measured.library);
        info.tokenizer = Some(measured.tokenizer.in_result());
        info.base_is_cached = measured.base_is_cached;
        info.manifests = job.manifests();
        info.absent = job.absent.clone();
        info.precision = measured.precision;
        info.interference = measured.interference;
        info.energy_method = measured.energy_method;
        info.parity = measured.comparisons[index].parity.as_ref();
        info.graphs = Some(&measured.comparisons[index].graphs);
        info.not_lowered = Some(&measured.comparisons[index].not_lowered);
        info.swap = measured.swaps[index].as_ref();
        Report::new(&info, figures, Some(&job.label))
    }

    fn info<'b>(
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
            timestamp: self.timestamp.clone(),
            duration: self.started.elapsed().as_secs_f64(),
            status,
            error,
            benchmark_config,
            settings: Map::new(),
            hardware: &self.hardware,
            system: &self.system,
            library: None,
            tokenizer: None,
            options,
            manifests: BTreeMap::new(),
            parity: None,
            graphs: None,
            not_lowered: None,
            absent: BTreeMap::new(),
            base_is_cached: false,
            precision: None,
            interference: None,
            energy_method: None,
            swap: None,
            seed: config.seed,
        }
    }
}
