//! How long it takes to change an adapter, asked of a process of its own.

use super::MeasurePlan;
use crate::measure::client::{Interrupt, WorkerClient, WorkerError, WorkerProcess};
use crate::measure::protocol::{OpenRequest, SwapRequest};
use crate::measure::swap::SwapResult;
use crate::prepared::PreparedVariant;

impl MeasurePlan {
    /// Lets the adapter of `unmerged` and `others` take turns, in a process of its own, behind the shortest prompt.
    ///
    /// # Errors
    /// If it's interrupted.
    pub fn swaps(
        &self,
        unmerged: &PreparedVariant,
        others: Vec<PreparedVariant>,
        interrupt: &Interrupt,
    ) -> Result<SwapResult, WorkerError> {
        let start = |name: &str| WorkerClient::start(self.program.clone(), name, interrupt);
        self.swaps_in(unmerged, others, &start)
    }

    pub(super) fn swaps_in<P: WorkerProcess>(
        &self,
        unmerged: &PreparedVariant,
        others: Vec<PreparedVariant>,
        start: &dyn Fn(&str) -> Result<P, WorkerError>,
    ) -> Result<SwapResult, WorkerError> {
        let Some(prompt) = self.shortest_prompt() else {
            return Ok(SwapResult::Absent("there is no prompt".to_owned()));
        };
        let mut options = self.options.clone();
        options.max_length = unmerged.manifest.num_virtual_tokens() + prompt.prompt_ids.len() + 1;
        let swapped = start("swap").and_then(|mut worker| {
            worker.swap(SwapRequest {
                open: OpenRequest {
                    library: self.library.clone(),
                    variant: unmerged.clone(),
                    options,
                },
                others,
                prompt_ids: prompt.prompt_ids.clone(),
                rounds: self.runs,
            })
        });
        match swapped {
            Err(WorkerError::Interrupted) => Err(WorkerError::Interrupted),
            Err(error) => Ok(SwapResult::Failed(error.to_string())),
            Ok(times) => Ok(SwapResult::Measured(times)),
        }
    }
}
