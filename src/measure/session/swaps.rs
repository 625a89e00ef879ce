//! Times replacing a bound adapter with another, in its own worker process.

use super::MeasurePlan;
use crate::measure::client::{Interrupt, WorkerClient, WorkerError, WorkerProcess};
use crate::measure::protocol::{OpenRequest, SwapRequest};
use crate::measure::swap::SwapResult;
use crate::prepared::PreparedVariant;

impl MeasurePlan {
    /// Binds the adapters of `unmerged` and `others` in turn, each followed by a prefill of the
    /// shortest prompt.
    ///
    /// # Errors
    /// If it's interrupted. Any other error is a [`SwapResult::Failed`].
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
