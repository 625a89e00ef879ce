//! Prepares what later jobs need, on cores where that can't disturb a timing, at the lowest
//! priority. What isn't ready in time is prepared by the job itself, so a failure here is none of
//! the job.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::folder::SweepFolder;
use super::job::Job;
use super::plan::Plan;
use super::process::{self, Place};
use super::run::Event;

/// Prepared this many jobs before they're measured: more would only fill the disk.
const AHEAD: usize = 8;

/// Prepares for the first jobs of `queue` until `stop` says so, or all are prepared.
pub fn prepare(
    sweep: &SweepFolder,
    plan: &Plan,
    cores: &[u32],
    queue: &Mutex<VecDeque<(&Job, usize)>>,
    stop: &dyn Fn() -> bool,
    tell: &(dyn Fn(Event) + Sync),
) {
    let mut prepared = BTreeSet::new();
    while !stop() {
        let next = {
            let queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
            // The first ones begin at any moment.
            let soon = queue.iter().take(AHEAD);
            let mut soon = soon.map(|(job, _)| (*job, plan.preparing(job)));
            soon.find(|(_, arguments)| !prepared.contains(arguments))
        };
        let Some((job, arguments)) = next else {
            thread::sleep(Duration::from_millis(200));
            continue;
        };
        tell(Event::Preparing { job });
        one(sweep, plan, job, &arguments, cores, stop);
        prepared.insert(arguments);
    }
}

fn one(
    sweep: &SweepFolder,
    plan: &Plan,
    job: &Job,
    arguments: &[String],
    cores: &[u32],
    stop: &dyn Fn() -> bool,
) {
    let place = Place {
        cores,
        gpu: None,
        inherited: &[],
        is_low_priority: true,
    };
    let log = sweep.logs().join(format!("prepare-{}.txt", job.key));
    if std::fs::create_dir_all(sweep.logs()).is_err() {
        return;
    }
    if let Ok(mut child) = process::start(arguments, &plan.common.folder, place, &log) {
        let _ = process::wait(&mut child, None, stop, &mut || {});
    }
}
