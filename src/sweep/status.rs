//! What came of every job so far: from files first, and from what an engine says second.

use serde::Serialize;

use super::attempt::{Record, State, records};
use super::claim::{Owner, owner_of};
use super::folder::{SweepFolder, There};
use super::job::Job;
use super::plan::Plan;

/// How a job stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Its result is there.
    Done,
    /// The same was measured by another revision of the program.
    DoneByOtherProgram,
    /// A process is at it.
    Running(String),
    /// The last attempt failed, and why.
    Failed(String),
    /// The last attempt was interrupted or cancelled: it's begun again by the next run.
    Interrupted,
    /// It wasn't begun.
    Open,
}

/// How a sweep stands.
#[derive(Debug)]
pub struct Status<'a> {
    /// Every job with how it stands and what its attempts were.
    pub jobs: Vec<(&'a Job, Standing, usize)>,
    /// Results of keys that no job of the plan has, and what changed.
    pub strays: usize,
}

impl<'a> Status<'a> {
    /// Looks at the files of `sweep`.
    pub fn of(sweep: &SweepFolder, plan: &'a Plan) -> Self {
        let published = sweep.published();
        let this = Owner::this();
        let jobs = plan.jobs.iter().map(|job| {
            let standing = match published.of(job) {
                There::Yes(_) => return (job, Standing::Done, 0),
                There::OtherProgram(_) => return (job, Standing::DoneByOtherProgram, 0),
                There::No => match owner_of(sweep, &job.key, &this) {
                    Some(owner) => Standing::Running(named(&owner)),
                    None => Standing::Open,
                },
            };
            let attempts = records(sweep, &job.key);
            let standing = match (standing, attempts.last()) {
                (Standing::Open, Some(last)) => of_last(last),
                (standing, _) => standing,
            };
            (job, standing, attempts.len())
        });
        let jobs: Vec<_> = jobs.collect();
        let there =
            |standing: &Standing| matches!(standing, Standing::Done | Standing::DoneByOtherProgram);
        let used = jobs
            .iter()
            .filter(|(_, standing, _)| there(standing))
            .count();
        Self {
            strays: published.works().saturating_sub(used),
            jobs,
        }
    }

    /// How many jobs stand so.
    pub fn count(&self, is: impl Fn(&Standing) -> bool) -> usize {
        self.jobs
            .iter()
            .filter(|(_, standing, _)| is(standing))
            .count()
    }
}

fn of_last(last: &Record) -> Standing {
    match last.state {
        State::Running | State::Cancelled => Standing::Interrupted,
        State::Failed | State::Timeout => Standing::Failed(last.error.clone().unwrap_or_default()),
        // Its result was there once.
        State::Done | State::Busy => Standing::Open,
    }
}

/// Who a process is, in words.
pub fn named(owner: &Owner) -> String {
    let process = format!("process {} on {}", owner.process, owner.host);
    match &owner.task {
        Some(task) => format!("{task} ({process})"),
        None => process,
    }
}
