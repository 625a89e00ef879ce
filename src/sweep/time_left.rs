//! What the rest of a sweep is expected to take: the jobs' estimates, times what jobs took over
//! theirs so far.

use std::collections::BTreeMap;
use std::time::Duration;

use super::job::Job;

/// What's left of a run.
#[derive(Debug)]
pub struct TimeLeft {
    /// Estimates of jobs that aren't done, in seconds.
    open: BTreeMap<usize, f64>,
    lanes: usize,
    /// What jobs took, and what was expected of them.
    took: f64,
    expected: f64,
}

impl TimeLeft {
    /// All of `jobs` are left, and done in so many lanes at once.
    pub fn new(jobs: &[&Job], lanes: usize) -> Self {
        let open = jobs.iter().map(|job| (job.job, job.estimate.seconds));
        Self {
            open: open.collect(),
            lanes: lanes.max(1),
            took: 0.0,
            expected: 0.0,
        }
    }

    /// A job is done; it took so many seconds, if it was measured.
    pub fn done(&mut self, number: usize, seconds: Option<f64>) {
        if let (Some(expected), Some(seconds)) = (self.open.remove(&number), seconds) {
            self.took += seconds;
            self.expected += expected;
        }
    }

    /// What's left.
    pub fn now(&self) -> Duration {
        let ratio = match self.expected > 0.0 {
            true => self.took / self.expected,
            false => 1.0,
        };
        let open: f64 = self.open.values().sum();
        Duration::from_secs_f64((open * ratio / self.lanes as f64).min(1e9))
    }
}
