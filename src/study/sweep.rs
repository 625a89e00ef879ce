//! Other batch sizes, and prompts of given lengths.

use super::observer::Event;
use super::trial_run::TrialRun;
use crate::measure::client::WorkerError;
use crate::measure::record::{PromptPlan, SubjectRecord};
use crate::measure::session::{MeasurePlan, Meters};
use crate::measure::sweep::SweepRun;

impl TrialRun<'_> {
    /// One plan a batch size, where there are several or prompts of given lengths.
    pub(super) fn sweep_plans(
        &self,
        main: &MeasurePlan,
        contexts: Vec<PromptPlan>,
    ) -> Vec<MeasurePlan> {
        if contexts.is_empty() && self.config.batch_sizes.len() == 1 {
            return Vec::new();
        }
        let plan = |&batch_size: &usize| {
            let mut plan = main.clone();
            plan.options.batch_size = batch_size;
            plan.goal = None;
            if !contexts.is_empty() {
                plan.prompts.clone_from(&contexts);
            }
            plan
        };
        self.config.batch_sizes.iter().map(plan).collect()
    }

    /// Measures what `plans` has that the main measurement, whose records are `main`, hasn't.
    pub(super) fn sweep(
        &self,
        plans: Vec<MeasurePlan>,
        meters: Meters,
        main: &[SubjectRecord],
        paired: bool,
    ) -> (Vec<SweepRun>, Result<(), WorkerError>) {
        let mut runs = Vec::new();
        for (index, plan) in plans.into_iter().enumerate() {
            let batch_size = plan.options.batch_size;
            if index == 0 && self.files.study.contexts.is_empty() {
                let records = main.to_vec();
                runs.push(SweepRun {
                    batch_size,
                    records,
                    paired,
                });
                continue;
            }
            self.files.setup.tell(Event::BatchSize(batch_size));
            let found = self.run_plan(&plan, meters);
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
}
