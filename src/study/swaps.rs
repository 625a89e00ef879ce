//! How long it takes to change adapters.

use super::StudyError;
use super::observer::Event;
use super::trial_run::TrialRun;
use crate::files::temporary_folder;
use crate::measure::client::WorkerError;
use crate::measure::session::MeasurePlan;
use crate::measure::swap::SwapResult;
use crate::prepare::{not_swappable, other_adapters};

impl TrialRun<'_> {
    /// Lets `count` adapters of each case take turns.
    pub(super) fn swaps(
        &self,
        plan: &MeasurePlan,
        count: usize,
    ) -> Result<Result<Vec<Option<SwapResult>>, WorkerError>, StudyError> {
        let mut all = Vec::new();
        for case in &self.cases {
            let Some(unmerged) = case.unmerged() else {
                let reason = "there is no unmerged variant".to_owned();
                all.push(Some(SwapResult::Absent(reason)));
                continue;
            };
            if let Some(reason) = not_swappable(unmerged) {
                all.push(Some(SwapResult::Absent(reason.to_owned())));
                continue;
            }
            self.files.setup.tell(Event::Swapping { adapters: count });
            let folder = temporary_folder::scratch().map_err(StudyError::TemporaryFolder)?;
            let others = other_adapters(unmerged, count - 1, plan.seed, folder.path())?;
            match plan.swaps(unmerged, others, &self.files.study.interrupt) {
                Ok(result) => all.push(Some(result)),
                Err(interrupted) => return Ok(Err(interrupted)),
            }
        }
        Ok(Ok(all))
    }
}
