//! A subject that is being measured: its worker process and its record.

use crate::measure::client::{WorkerError, WorkerProcess};
use crate::measure::energy::EnergyMeter;
use crate::measure::record::{PromptPlan, RunRecord, SubjectRecord};

/// A subject with its process; `None` once the process has failed.
pub(super) struct RunningSubject<P> {
    pub record: SubjectRecord,
    pub process: Option<P>,
}

impl<P: WorkerProcess> RunningSubject<P> {
    /// Generates once and records it; `run` is `None` for a warm-up. Does nothing if the process
    /// has failed.
    pub(super) fn generate(
        &mut self,
        prompt: &PromptPlan,
        run: Option<usize>,
        meter: &dyn EnergyMeter,
        memory_rate: Option<f64>,
    ) -> Result<(), WorkerError> {
        let Some(process) = &mut self.process else {
            return Ok(());
        };
        let before = meter.read();
        let (_, timings) = process.generate(&prompt.prompt_ids, prompt.new_tokens)?;
        let energy = || meter.joules(&before?, &meter.read()?);
        match run {
            None => self.record.warmup_runs += 1,
            Some(run) => self.record.runs.push(RunRecord {
                group: prompt.group,
                prompt: prompt.index,
                prompt_tokens: prompt.prompt_ids.len(),
                run,
                timings,
                energy_joules: energy(),
                memory_rate,
            }),
        }
        Ok(())
    }

    pub(super) fn end_stage(&mut self, name: &str) -> Result<(), WorkerError> {
        if let Some(process) = &mut self.process {
            self.record.add_stage(process.stage(name)?);
        }
        Ok(())
    }
}
