//! The result files of a trial's cases, of those too that failed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use serde_json::Map;

use super::case::PreparedCase;
use super::measured::Measured;
use super::setup::Setup;
use super::{Study, StudyError};
use crate::config::BenchmarkConfig;
use crate::engine::{EngineOptions, Provider, WeightsMode};
use crate::measure::sweep::SweepRun;
use crate::results::{self, ResultDocument, RunInfo, Status};
use crate::system::{Hardware, SystemInfo};

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
        let mut info = self.info(config, &options, Status::Failed, Some(error.in_full()));
        for result_stem in result_stems {
            let name = self.name(config, result_stem);
            info.settings.clone_from(&name.settings);
            let document = ResultDocument::new(&info, &[], &[]);
            let output = &self.study.output;
            if let Err(second) = results::write(output, &name, Status::Failed, &document) {
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
        index: usize,
        case: &PreparedCase,
        status: Status,
        error: Option<String>,
    ) -> Result<PathBuf, StudyError> {
        let options = self.options(config);
        let mut info = self.info(config, &options, status, error);
        let name = self.name(config, &case.result_stem);
        info.settings.clone_from(&name.settings);
        info.library = Some(&measured.library);
        info.tokenizer = serde_json::to_value(&measured.tokenizer).ok();
        info.base_is_cached = measured.base_is_cached;
        info.manifests = case.manifests();
        info.absent = case.absent.clone();
        info.precision = measured.precision;
        info.interference = measured.interference;
        info.energy_method = measured.energy_method;
        info.parity = measured.comparisons[index].parity.as_ref();
        info.graphs = Some(&measured.comparisons[index].graphs);
        info.not_lowered = Some(&measured.comparisons[index].not_lowered);
        let sweep = measured.sweep.iter().map(|run| SweepRun {
            records: case.records(&run.records),
            ..run.clone()
        });
        let sweep: Vec<SweepRun> = sweep.collect();
        info.swap = measured.swaps[index].as_ref();
        let document = ResultDocument::new(&info, &case.records(&measured.records), &sweep);
        let output = &self.study.output;
        Ok(results::write(output, &name, status, &document)?)
    }

    fn info<'b>(
        &'b self,
        config: &BenchmarkConfig,
        options: &'b EngineOptions,
        status: Status,
        error: Option<String>,
    ) -> RunInfo<'b> {
        let mut benchmark_config = config.to_json();
        if options.provider != Provider::Cpu
            && let Some(keys) = benchmark_config.as_object_mut()
        {
            // Not chosen there, and refused where these parameters are used again.
            keys.shift_remove("quantization_accuracy_level");
        }
        RunInfo {
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
