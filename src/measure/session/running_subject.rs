//! A subject that is being measured: its worker process and its record.

use crate::measure::client::{WorkerError, WorkerProcess};
use crate::measure::energy::EnergyMeter;
use crate::measure::protocol::Opened;
use crate::measure::record::{PromptPlan, RunRecord, SubjectRecord};
use crate::measure::stats::median;

/// Which of a prompt's runs it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct RunNumber {
    /// Its number among all runs of the prompt.
    pub run: usize,
    /// The number of the start.
    pub start: usize,
}

/// A subject with its process; `None` once the process has failed.
pub(super) struct RunningSubject<P> {
    pub record: SubjectRecord,
    pub process: Option<P>,
    /// What opening the session took, once for each start.
    pub session_seconds: Vec<f64>,
}

impl<P: WorkerProcess> RunningSubject<P> {
    /// Generates once and records it; `run` is `None` for a warm-up, else its number and that of
    /// the start. Does nothing if the process has failed.
    pub(super) fn generate(
        &mut self,
        prompt: &PromptPlan,
        run: Option<RunNumber>,
        meter: &dyn EnergyMeter,
        memory_rate: Option<f64>,
    ) -> Result<(), WorkerError> {
        let Some(process) = &mut self.process else {
            return Ok(());
        };
        let before = meter.read();
        let (token_ids, timings) = process.generate(&prompt.prompt_ids, prompt.new_tokens)?;
        let energy = || meter.joules(&before?, &meter.read()?);
        match run {
            None => self.record.warmup_runs += 1,
            Some(RunNumber { run, start }) => self.record.runs.push(RunRecord {
                group: prompt.group,
                prompt: prompt.index,
                prompt_tokens: prompt.prompt_ids.len(),
                run,
                start,
                timings,
                token_ids,
                energy_joules: energy(),
                memory_rate,
            }),
        }
        Ok(())
    }

    /// Takes over the session that `process` has opened.
    pub(super) fn opened(&mut self, process: P, opened: Opened) {
        self.session_seconds.push(opened.session_seconds);
        let seconds = median(&self.session_seconds);
        self.record.session_seconds = seconds.unwrap_or_default();
        self.record.step_graph = opened.step_graph;
        for stage in opened.stages {
            self.record.add_stage(stage);
        }
        self.process = Some(process);
    }

    pub(super) fn end_stage(&mut self, name: &str) -> Result<(), WorkerError> {
        if let Some(process) = &mut self.process {
            self.record.add_stage(process.stage(name)?);
        }
        Ok(())
    }
}
