//! Runs jobs of a plan on this machine: one at a time in each lane, each in a process of its own.
//!
//! A job whose result is there is skipped. What was interrupted is begun again; what an earlier
//! attempt measured to its end, and was killed before it published it, is published now.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::ahead;
use super::attempt::{Attempt, State};
use super::claim::{Claim, HEARTBEAT, Owner};
use super::device_lock::DeviceLocks;
use super::folder::SweepFolder;
use super::job::Job;
use super::lanes::Lane;
use super::plan::Plan;
use super::process::{self, End, Place};
use super::time_left::TimeLeft;
use super::unchanged::Inputs;
use crate::files::temporary_file;
use crate::machine::ended_by::{MemoryKills, ended_by};
use crate::measure::client::Interrupt;

/// The exit code of `measure` if the machine isn't quiet.
const NOT_QUIET: i32 = 3;
/// Its exit code if it was interrupted.
const INTERRUPTED: i32 = 130;
/// So many jobs at most are asked after one by one.
const FEW: usize = 50;
/// How often it's looked whether the sweep was cancelled from elsewhere.
const LOOK: Duration = Duration::from_secs(1);

/// How jobs are run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where.
    pub lanes: Vec<Lane>,
    /// Cores on which what later jobs need is prepared meanwhile; none for in the jobs themselves.
    pub preparing_cores: Vec<u32>,
    /// How often a job that failed is tried again.
    pub retries: usize,
    /// How long a job may take.
    pub timeout: Option<Duration>,
    /// Whether further jobs are begun once one failed.
    pub keep_going: bool,
    /// Whether what another revision of the program measured is measured anew.
    pub only_this_program: bool,
    /// How long a busy device is waited for.
    pub patience: Duration,
}

/// Something that happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// A job is being measured.
    Began { job: &'a Job, lane: &'a Lane },
    /// A job's result is published.
    Done {
        job: &'a Job,
        seconds: f64,
        progress: Progress,
    },
    /// The result of an earlier attempt is published.
    Adopted { job: &'a Job },
    /// An attempt failed.
    Failed {
        job: &'a Job,
        error: &'a str,
        log: &'a str,
        again: bool,
    },
    /// Another process measures it.
    Elsewhere { job: &'a Job, owner: &'a Owner },
    /// Another process has the lane's cores or GPU.
    Waiting { lane: &'a Lane, lock: &'a str },
    /// What a job needs is being prepared ahead.
    Preparing { job: &'a Job },
}

/// How far a run has come.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Jobs that are there, those from before too.
    pub there: usize,
    /// All jobs of the run.
    pub of: usize,
    /// What the others are expected to take.
    pub left: Duration,
}

/// What came of a run.
#[derive(Debug, Default)]
pub struct Summary {
    /// All jobs of the run.
    pub jobs: usize,
    /// Those whose result is there.
    pub there: usize,
    /// Those of them that were measured now.
    pub measured: usize,
    /// Numbers of those that failed, with the reason.
    pub failed: Vec<(usize, String)>,
    /// Those that another process measures, or whose device or machine was busy.
    pub elsewhere: usize,
    /// Whether it was stopped.
    pub stopped: bool,
}

struct Run<'a, 'b> {
    sweep: &'a SweepFolder,
    plan: &'a Plan,
    inputs: &'a Inputs<'b>,
    settings: &'a Settings,
    interrupt: &'a Interrupt,
    tell: &'a (dyn Fn(Event) + Sync),
    owner: Owner,
    /// When the sweep was cancelled before this run began, if it was.
    cancelled_before: Option<SystemTime>,
    /// Jobs that are left, and how often each was tried.
    queue: Mutex<VecDeque<(&'a Job, usize)>>,
    summary: Mutex<Summary>,
    left: Mutex<TimeLeft>,
    stop: AtomicBool,
}

/// How an attempt ended.
enum Ended {
    Done,
    Failed(State, String),
    Stopped,
    Busy,
}

/// Runs the jobs of `plan` with these numbers, in their order.
///
/// # Errors
/// If the sweep's folder can't be written. What fails in a job is in the summary.
pub fn run(
    sweep: &SweepFolder,
    plan: &Plan,
    inputs: &Inputs,
    numbers: &[usize],
    settings: &Settings,
    interrupt: &Interrupt,
    tell: &(dyn Fn(Event) + Sync),
) -> io::Result<Summary> {
    let cancelled_before = cancelled_at(sweep);
    check_writable(&sweep.results())?;
    // Of few jobs, each is asked after; a task of one job doesn't look at thousands of results.
    let all = (numbers.len() > FEW).then(|| sweep.published());
    let is_open = |job: &&Job| {
        let there = match &all {
            Some(published) => published.of(job),
            None => sweep.there(job),
        };
        !there.will_do(settings.only_this_program)
    };
    let chosen = numbers.iter().filter_map(|number| plan.job(*number));
    let open: Vec<&Job> = chosen.filter(is_open).collect();
    let run = Run {
        sweep,
        plan,
        inputs,
        settings,
        interrupt,
        tell,
        owner: Owner::this(),
        cancelled_before,
        left: Mutex::new(TimeLeft::new(&open, settings.lanes.len())),
        summary: Mutex::new(Summary {
            jobs: numbers.len(),
            there: numbers.len() - open.len(),
            ..Summary::default()
        }),
        queue: Mutex::new(open.into_iter().map(|job| (job, 0)).collect()),
        stop: AtomicBool::new(false),
    };
    let finished = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| run.watch(&finished));
        let ahead = (!settings.preparing_cores.is_empty()).then(|| {
            scope.spawn(|| {
                let stop = || finished.load(Ordering::SeqCst) || run.is_stopped();
                ahead::prepare(
                    sweep,
                    plan,
                    &settings.preparing_cores,
                    &run.queue,
                    &stop,
                    tell,
                );
            })
        });
        let lanes = settings
            .lanes
            .iter()
            .map(|lane| scope.spawn(|| run.work(lane)));
        let lanes: Vec<_> = lanes.collect();
        let mut outcome = Ok(());
        for lane in lanes {
            match lane.join() {
                Ok(worked) => outcome = outcome.and(worked),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        finished.store(true, Ordering::SeqCst);
        drop(ahead);
        outcome
    })?;
    let mut summary = run
        .summary
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    summary.stopped = interrupt.is_raised();
    summary.failed.sort();
    Ok(summary)
}

/// Checks that results can be written, before hours are spent on them.
fn check_writable(results: &Path) -> io::Result<()> {
    let tried = std::fs::create_dir_all(results).and_then(|()| temporary_file(results));
    tried.map(|_| ()).map_err(|error| {
        let text = format!("cannot write results into `{}`: {error}", results.display());
        io::Error::new(error.kind(), text)
    })
}

/// When the sweep was last cancelled, by the clock of its file system. It's compared with nothing but
/// itself, since clocks are put back and forth.
fn cancelled_at(sweep: &SweepFolder) -> Option<SystemTime> {
    sweep.cancelled().metadata().ok()?.modified().ok()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Run<'a, '_> {
    fn is_stopped(&self) -> bool {
        self.interrupt.is_raised()
    }

    /// Looks whether the sweep is cancelled from elsewhere.
    fn watch(&self, finished: &AtomicBool) {
        let mut last = Instant::now();
        while !finished.load(Ordering::SeqCst) && !self.is_stopped() {
            if last.elapsed() >= LOOK {
                last = Instant::now();
                let cancelled = cancelled_at(self.sweep);
                if cancelled.is_some() && cancelled != self.cancelled_before {
                    self.interrupt.raise();
                }
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Does jobs in `lane` until none is left.
    fn work(&self, lane: &Lane) -> io::Result<()> {
        while !self.is_stopped() && !self.stop.load(Ordering::SeqCst) {
            let Some((job, tries)) = locked(&self.queue).pop_front() else {
                break;
            };
            if let Err(error) = self.one(job, tries, lane) {
                self.stop.store(true, Ordering::SeqCst);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Does one job, which was tried so often in this run, unless another process does.
    fn one(&self, job: &'a Job, tries: usize, lane: &Lane) -> io::Result<()> {
        let claim = match Claim::take(self.sweep, &job.key, &self.owner)? {
            Ok(claim) => claim,
            Err(owner) => {
                (self.tell)(Event::Elsewhere { job, owner: &owner });
                locked(&self.summary).elsewhere += 1;
                locked(&self.left).done(job.job, None);
                return Ok(());
            }
        };
        let waiting = |lock: &str| (self.tell)(Event::Waiting { lane, lock });
        let stop = || self.is_stopped();
        let patience = self.settings.patience;
        let Some(locks) = DeviceLocks::take(lane, patience, &stop, &waiting)? else {
            if !self.is_stopped() {
                locked(&self.summary).elsewhere += 1;
            }
            return Ok(());
        };
        // Another process may have been at it meanwhile.
        let only_this = self.settings.only_this_program;
        let is_there = self.sweep.there(job).will_do(only_this);
        if is_there || self.sweep.adopt(&job.key)?.is_some() {
            if !is_there {
                (self.tell)(Event::Adopted { job });
            }
            self.done(job, None);
            return Ok(());
        }
        (self.tell)(Event::Began { job, lane });
        let mut attempt = Attempt::begin(self.sweep, job, &self.owner)?;
        let log = attempt.log();
        let mut ended = match self.inputs.check(job) {
            Ok(()) => self.attempt(job, &mut attempt, lane, &locks, &claim)?,
            Err(changed) => Ended::Failed(State::Failed, changed),
        };
        if let Ended::Failed(..) | Ended::Stopped = ended
            // It measured everything, and was ended after that.
            && self.sweep.publish(&job.key, &attempt.results())?.is_some()
        {
            ended = Ended::Done;
        }
        drop(locks);
        match ended {
            Ended::Done => {
                let seconds = attempt.end(State::Done, None)?;
                self.done(job, Some(seconds));
            }
            Ended::Failed(state, error) => {
                attempt.end(state, Some(error.clone()))?;
                let again = tries < self.settings.retries;
                (self.tell)(Event::Failed {
                    job,
                    error: &error,
                    log: &log.display().to_string(),
                    again,
                });
                self.failed(job, tries, error, again);
            }
            Ended::Stopped => {
                attempt.end(State::Cancelled, None)?;
            }
            Ended::Busy => {
                attempt.end(State::Busy, None)?;
                locked(&self.summary).elsewhere += 1;
            }
        }
        Ok(())
    }

    /// Runs the process of an attempt.
    fn attempt(
        &self,
        job: &Job,
        attempt: &mut Attempt,
        lane: &Lane,
        locks: &DeviceLocks,
        claim: &Claim,
    ) -> io::Result<Ended> {
        let mut arguments = self.plan.measuring(job);
        let results = attempt.results().display().to_string();
        arguments.extend(["--output".to_owned(), results]);
        attempt.made_by(arguments.clone())?;
        let descriptors = locks.descriptors();
        let place = Place::of(lane, &descriptors);
        let folder = &self.plan.common.folder;
        let memory_kills = MemoryKills::now();
        let mut child =
            process::start(&arguments, folder, place, &attempt.log()).map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("cannot start a job in `{}`: {error}", folder.display()),
                )
            })?;
        let mut last_beat = Instant::now();
        let mut beat = || {
            if last_beat.elapsed() >= HEARTBEAT {
                claim.beat();
                last_beat = Instant::now();
            }
        };
        let stop = || self.is_stopped();
        let end = process::wait(&mut child, self.settings.timeout, &stop, &mut beat)?;
        let why = |usual: String| attempt.last_line().unwrap_or(usual);
        Ok(match end {
            End::Exited(0) => match self.sweep.publish(&job.key, &attempt.results())? {
                Some(_) => Ended::Done,
                None => Ended::Failed(State::Failed, "it wrote no result".to_owned()),
            },
            End::Exited(NOT_QUIET) => Ended::Busy,
            // Whoever ends one process of a task with TERM ends them all.
            End::Exited(INTERRUPTED) | End::Signal(libc::SIGTERM | libc::SIGINT) => {
                self.interrupt.raise();
                Ended::Stopped
            }
            End::Exited(code) => Ended::Failed(State::Failed, why(format!("exit code {code}"))),
            End::Signal(signal) => {
                let how = ended_by(signal, &memory_kills);
                Ended::Failed(State::Failed, format!("its process {how}"))
            }
            End::TimedOut => {
                let limit = self.settings.timeout.unwrap_or_default();
                let limit = humantime::format_duration(limit);
                Ended::Failed(State::Timeout, format!("it took longer than {limit}"))
            }
            End::Stopped => Ended::Stopped,
        })
    }

    /// Counts a job whose result is there.
    fn done(&self, job: &Job, seconds: Option<f64>) {
        let left = {
            let mut left = locked(&self.left);
            left.done(job.job, seconds);
            left.now()
        };
        let progress = {
            let mut summary = locked(&self.summary);
            summary.there += 1;
            summary.measured += usize::from(seconds.is_some());
            Progress {
                there: summary.there,
                of: summary.jobs,
                left,
            }
        };
        if let Some(seconds) = seconds {
            (self.tell)(Event::Done {
                job,
                seconds,
                progress,
            });
        }
    }

    /// Puts a job that failed behind the others, or counts it.
    fn failed(&self, job: &'a Job, tries: usize, error: String, again: bool) {
        if again {
            locked(&self.queue).push_back((job, tries + 1));
            return;
        }
        locked(&self.left).done(job.job, None);
        locked(&self.summary).failed.push((job.job, error));
        if !self.settings.keep_going {
            self.stop.store(true, Ordering::SeqCst);
        }
    }
}
