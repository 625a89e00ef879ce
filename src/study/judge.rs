//! How a trial ended for each case.

use super::case::PreparedCase;
use super::trial_run::Measured;
use crate::measure::client::WorkerError;
use crate::measure::serving::Serving;
use crate::measure::swap::SwapResult;
use crate::measure::timed_tokens::TimedTokens;
use crate::report::Status;

impl Measured {
    /// How the measurement of the case with this index ended, and why not well.
    pub(super) fn judge(
        &self,
        index: usize,
        case: &PreparedCase,
        tokens: &TimedTokens,
    ) -> (Status, Option<String>) {
        let parity = self.comparisons[index].parity.as_ref();
        let wrong = parity.filter(|parity| !parity.passed);
        let wrong =
            wrong.map(|parity| format!("parity check failed: {}", parity.failures.join("; ")));
        let differences = tokens.differences.join("; ");
        let wrong = wrong.or_else(|| (!differences.is_empty()).then_some(differences));
        match &self.outcome {
            Err(WorkerError::Interrupted) => (Status::Cancelled, Some("interrupted".to_owned())),
            Err(error) => (Status::Failed, Some(error.to_string())),
            Ok(()) => {
                let main = case.records(&self.records).into_iter();
                let main = main.filter_map(|record| record.error);
                let mut errors = main.chain(self.sweep.iter().flat_map(|run| {
                    let size = run.batch_size;
                    let records = case.records(&run.records).into_iter();
                    let errors = records.filter_map(|record| record.error);
                    errors.map(move |error| format!("with batches of {size}: {error}"))
                }));
                let swap = match &self.swaps[index] {
                    Some(SwapResult::Failed(error)) => Some(format!("swapping: {error}")),
                    _ => None,
                };
                let serving = self.serving[index].as_ref().map(Serving::failures);
                let serving = serving.filter(|failures| !failures.is_empty());
                let serving = serving.map(|failures| failures.join("; "));
                match errors.next().or(swap).or(serving).or(wrong) {
                    Some(error) => (Status::Failed, Some(error)),
                    None => (Status::Success, None),
                }
            }
        }
    }
}
