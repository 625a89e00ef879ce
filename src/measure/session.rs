//! Measures subjects against each other: each has a worker process, and they take turns run by run.
//!
//! A machine's drift then affects all of them alike. Overheads are computed from pairs of
//! neighbouring runs.

mod parity;
mod running_measurement;
mod running_subject;
mod serving;
mod swaps;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

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
    /// The path of this program, which is also the worker.
    pub program: PathBuf,
    /// ONNX Runtime.
    pub library: Library,
    /// The subjects, the base first if it's measured.
    pub subjects: Vec<PlannedSubject>,
    /// Prompts, by group.
    pub prompts: Vec<PromptPlan>,
    /// Measured generations of each prompt in each start; with a goal, the minimum.
    pub runs: usize,
    /// How often all processes are started anew; at least one start.
    pub starts: usize,
    /// How sessions are opened. `max_length` is set for each subject.
    pub options: EngineOptions,
    /// Seed of the subjects' order and of the bootstrap.
    pub seed: u64,
    /// If set, rounds are added until it's reached; of several starts, further starts.
    pub goal: Option<PrecisionGoal>,
}

/// A subject that is to be measured.
#[derive(Debug, Clone)]
pub struct PlannedSubject {
    /// Which subject it is.
    pub subject: Subject,
    /// The experiment's name, if several are measured together; `None` for the base.
    pub experiment: Option<String>,
    /// The prepared variant that it runs.
    pub prepared: PreparedVariant,
}

impl PlannedSubject {
    /// The subject's name, after the experiment's if several are measured together.
    pub fn label(&self) -> String {
        label(self.experiment.as_deref(), self.subject)
    }
}

/// The machine's meters, read while measuring.
#[derive(Clone, Copy)]
pub struct Meters<'a> {
    /// The energy counter.
    pub energy: &'a dyn EnergyMeter,
    /// The meter of memory bandwidth.
    pub memory: &'a dyn RateMeter,
    /// Looks at the machine before each round.
    pub before_round: &'a dyn Fn(),
}

/// How narrow the overheads' intervals shall become.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrecisionGoal {
    /// The largest allowed half-width of an overhead's interval, in percentage points.
    pub half_width_pct: f64,
    /// After this time, no further round begins.
    pub max_time: Duration,
}

/// How far a [`PrecisionGoal`] was reached.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ReachedPrecision {
    /// The goal's half-width, in percentage points.
    pub target_pct: f64,
    /// Half-width of the widest overall interval at the end, in percentage points; `None` without
    /// an interval.
    pub half_width_pct: Option<f64>,
    /// Whether the goal was reached.
    pub met: bool,
    /// Measured generations of each prompt.
    pub runs: usize,
}

/// The outcome of a measurement.
#[derive(Debug)]
pub struct Measurement {
    /// One record for each subject, partial if it failed.
    pub records: Vec<SubjectRecord>,
    /// The precision that was reached; `None` without a goal, or if the measurement ended before
    /// its last planned round.
    pub precision: Option<ReachedPrecision>,
    /// The error that ended the measurement early, if any.
    pub outcome: Result<(), WorkerError>,
}

/// Progress of a measurement, as it's reported to the caller.
#[derive(Debug, Clone, Copy)]
pub enum Progress<'a> {
    /// The parity check is running.
    Comparing,
    /// The session of this subject is being opened.
    Opening(&'a str),
    /// A generation begins.
    Generating {
        /// Generations done so far.
        done: usize,
        /// All generations, warm-up included.
        total: usize,
        /// The prompt's group.
        group: PromptGroup,
    },
    /// The goal isn't reached yet.
    Precision {
        /// Half-width of the widest overall interval, in percentage points; infinite if there's no
        /// interval yet.
        half_width_pct: f64,
        /// The goal's half-width, in percentage points.
        target_pct: f64,
        /// Measured generations of each prompt.
        runs: usize,
    },
}

impl MeasurePlan {
    /// Runs the measurement. If a subject's worker fails, its record holds the error and the others
    /// go on. If the base fails, the measurement ends, since there's nothing left to compare with.
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

    /// The shortest prompt, and the longest if it's longer.
    fn extreme_prompts(&self) -> Vec<&PromptPlan> {
        let longest = self.prompts.iter().max_by_key(|one| one.prompt_ids.len());
        let shortest = self.shortest_prompt();
        let is_longer = |longest: &&PromptPlan| {
            shortest.is_some_and(|shortest| longest.prompt_ids.len() > shortest.prompt_ids.len())
        };
        shortest
            .into_iter()
            .chain(longest.filter(is_longer))
            .collect()
    }

    fn shortest_prompt(&self) -> Option<&PromptPlan> {
        let prompts = self.prompts.iter();
        prompts.min_by_key(|prompt| prompt.prompt_ids.len())
    }

    fn groups(&self) -> BTreeSet<PromptGroup> {
        self.prompts.iter().map(|prompt| prompt.group).collect()
    }
}
