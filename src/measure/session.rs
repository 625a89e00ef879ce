//! Measures variants against each other: a worker process each, taking turns run by run.
//!
//! Whatever the machine drifts, it hits all variants alike, and overheads are taken from pairs of
//! neighbouring runs.

mod parity;
mod running_measurement;
mod running_subject;
mod swaps;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::bandwidth::RateMeter;
use super::client::{Interrupt, WorkerClient, WorkerError};
use super::energy::EnergyMeter;
use super::prompt_group::PromptGroup;
use super::record::{PromptPlan, SubjectRecord, label};
use super::subject::Subject;
use super::timings::SystemClock;
use crate::engine::EngineOptions;
use crate::onnxruntime::library::Library;
use crate::prepared::PreparedVariant;
use running_measurement::RunningMeasurement;

/// What is measured, and how.
#[derive(Debug, Clone)]
pub struct MeasurePlan {
    /// This program, which is started as the workers.
    pub program: PathBuf,
    /// ONNX Runtime.
    pub library: Library,
    /// Who takes part, the base first where it's among them.
    pub subjects: Vec<PlannedSubject>,
    /// Prompts, by group.
    pub prompts: Vec<PromptPlan>,
    /// Measured generations of each prompt; with a target, at least so many.
    pub runs: usize,
    /// How sessions are opened; the cache is sized for each variant.
    pub options: EngineOptions,
    /// Chooses the order of the variants, and draws the bootstrap.
    pub seed: u64,
    /// Go on until the overheads are known so well.
    pub goal: Option<PrecisionGoal>,
}

/// One that takes part in a measurement.
#[derive(Debug, Clone)]
pub struct PlannedSubject {
    /// What it is.
    pub subject: Subject,
    /// Its experiment, where several are measured together; the base belongs to none.
    pub experiment: Option<String>,
    /// What it runs.
    pub prepared: PreparedVariant,
}

impl PlannedSubject {
    /// Its name, with its experiment's where several are measured together.
    pub fn label(&self) -> String {
        label(self.experiment.as_deref(), self.subject)
    }
}

/// The machine's meters, read while measuring.
#[derive(Clone, Copy)]
pub struct Meters<'a> {
    /// Of energy.
    pub energy: &'a dyn EnergyMeter,
    /// Of the rate at which memory is read.
    pub memory: &'a dyn RateMeter,
}

/// How well overheads shall be known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrecisionGoal {
    /// The most that half of an overhead's interval may be, in percentage points.
    pub half_width_pct: f64,
    /// Begin no further round after so much time.
    pub max_time: Duration,
}

/// What came of a [`PrecisionGoal`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ReachedPrecision {
    /// The most that half of an interval was allowed to be, in percentage points.
    pub target_pct: f64,
    /// Half of the widest overall interval at the end; absent where there's none.
    pub half_width_pct: Option<f64>,
    /// The target was met.
    pub met: bool,
    /// Measured generations of each prompt.
    pub runs: usize,
}

/// Everything that was measured.
#[derive(Debug)]
pub struct Measurement {
    /// One a subject, as far as it came.
    pub records: Vec<SubjectRecord>,
    /// What came of the target, where there was one and it came so far.
    pub precision: Option<ReachedPrecision>,
    /// What ended it early.
    pub outcome: Result<(), WorkerError>,
}

/// What's told while measuring.
#[derive(Debug, Clone, Copy)]
pub enum Progress<'a> {
    /// What the variants compute is compared.
    Comparing,
    /// A session is opened.
    Opening(&'a str),
    /// So many of so many generations are done; the one at hand.
    Generating {
        /// Generations that are done.
        done: usize,
        /// Generations in all, warm-up included.
        total: usize,
        /// The prompt's group.
        group: PromptGroup,
    },
    /// The target isn't met yet, after so many measured generations of each prompt.
    Precision {
        /// Half of the widest overall interval, in percentage points; infinite where there's none yet.
        half_width_pct: f64,
        /// What it shall be.
        target_pct: f64,
        /// Measured generations of each prompt.
        runs: usize,
    },
}

impl MeasurePlan {
    /// Runs the measurement. A variant whose worker fails has its error in its record, and the others go
    /// on; without the base nothing can be compared, so its failure ends them all.
    pub fn run(
        &self,
        interrupt: &Interrupt,
        meters: Meters,
        progress: &dyn Fn(Progress),
    ) -> Measurement {
        let start = |name: &str| WorkerClient::start(self.program.clone(), name, interrupt);
        RunningMeasurement {
            plan: self,
            start: &start,
            clock: &SystemClock::new(),
            meters,
            progress,
            running: Vec::new(),
            done: 0,
            total: 0,
        }
        .run()
    }

    fn shortest_prompt(&self) -> Option<&PromptPlan> {
        let prompts = self.prompts.iter();
        prompts.min_by_key(|prompt| prompt.prompt_ids.len())
    }

    fn groups(&self) -> BTreeSet<PromptGroup> {
        self.prompts.iter().map(|prompt| prompt.group).collect()
    }
}
