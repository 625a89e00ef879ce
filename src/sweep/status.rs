//! What came of every job so far: from files first, and from what an engine says second.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use super::attempt::{Record, State, records};
use super::claim::{Owner, owner_of};
use super::folder::{Published, SweepFolder, There};
use super::job::{Job, Key};
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
    /// Results of keys that no job of the plan has, by what changed since.
    pub strays: BTreeMap<&'static str, usize>,
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
        Self {
            strays: strays(sweep, plan, &published),
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

/// Results of keys that no job of the plan has, by what changed since: their attempts know what they
/// were of.
fn strays(
    sweep: &SweepFolder,
    plan: &Plan,
    published: &Published,
) -> BTreeMap<&'static str, usize> {
    let works: HashSet<&str> = plan.jobs.iter().map(|job| job.key.work()).collect();
    let strays: Vec<&Key> = published
        .keys()
        .filter(|key| !works.contains(key.work()))
        .collect();
    let mut found = BTreeMap::new();
    if strays.is_empty() {
        return found;
    }
    let jobs = plan.jobs.iter();
    let now: HashMap<String, &Job> = jobs.map(|job| (job.combination.to_string(), job)).collect();
    for key in strays {
        let before = records(sweep, key).pop().map(|record| record.job);
        let before = before.as_ref();
        let now = before.and_then(|before| now.get(&before.combination.to_string()));
        let why = match (before, now) {
            (Some(before), Some(now)) if before.parts.experiment != now.parts.experiment => {
                "of an adapter that has changed"
            }
            (Some(before), Some(now)) if before.parts.base != now.parts.base => {
                "of a base that has changed"
            }
            (Some(_), Some(_)) => "with other parameters or options",
            _ => "of combinations that the plan hasn't any more",
        };
        *found.entry(why).or_default() += 1;
    }
    found
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
