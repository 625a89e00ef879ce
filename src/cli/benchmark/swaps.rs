//! How long it takes to change adapters.

use anyhow::{Context, Result};

use super::{Benchmark, Job};
use crate::cli::progress::message;
use crate::measure::client::WorkerError;
use crate::measure::session::MeasurePlan;
use crate::measure::swap::SwapResult;
use crate::prepare::{not_swappable, other_adapters};
use crate::prepared::Variant;

impl Benchmark<'_> {
    /// Lets `count` adapters of each job take turns.
    pub(super) fn swaps(
        &self,
        jobs: &[Job],
        plan: &MeasurePlan,
        count: usize,
    ) -> Result<Result<Vec<Option<SwapResult>>, WorkerError>> {
        let mut all = Vec::new();
        for job in jobs {
            let mut variants = job.variants.iter();
            let unmerged = variants.find(|one| one.manifest.variant == Variant::Unmerged);
            let Some(unmerged) = unmerged else {
                let reason = "there is no unmerged variant".to_owned();
                all.push(Some(SwapResult::Absent(reason)));
                continue;
            };
            if let Some(reason) = not_swappable(unmerged) {
                all.push(Some(SwapResult::Absent(reason.to_owned())));
                continue;
            }
            message(&format!("swapping {count} adapters"));
            let folder = tempfile::tempdir().context("cannot make a folder for other adapters")?;
            let others = other_adapters(unmerged, count - 1, plan.seed, folder.path())?;
            match plan.swaps(unmerged, others, self.interrupt) {
                Ok(result) => all.push(Some(result)),
                Err(interrupted) => return Ok(Err(interrupted)),
            }
        }
        Ok(Ok(all))
    }
}
