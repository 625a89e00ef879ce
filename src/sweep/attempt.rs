//! An attempt at a job: its folder, and what it says of itself.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::claim::Owner;
use super::folder::{SweepFolder, entries};
use super::job::{Job, Key};
use crate::files::{self, write_file};

const RECORD: &str = "attempt.json";

/// What an attempt says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// The job.
    pub job: Job,
    /// Who made it.
    pub owner: Owner,
    /// The command, which can be run by hand.
    pub command: Vec<String>,
    /// When it began, in seconds since 1970 by its machine's clock.
    pub began: f64,
    /// How it went.
    pub state: State,
    /// How long it took, once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How an attempt went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It began. If nobody is at it any more, it was interrupted.
    Running,
    /// Its result is published.
    Done,
    /// It failed.
    Failed,
    /// It took longer than it was allowed to.
    Timeout,
    /// It was cancelled.
    Cancelled,
    /// The machine wasn't quiet, so nothing was measured.
    Busy,
}

/// An attempt that has begun.
#[derive(Debug)]
pub struct Attempt {
    folder: PathBuf,
    record: Record,
    began: SystemTime,
}

impl Attempt {
    /// Begins an attempt at `job`, which `command` makes.
    ///
    /// # Errors
    /// If its folder can't be written.
    pub fn begin(sweep: &SweepFolder, job: &Job, owner: &Owner) -> io::Result<Self> {
        let began = SystemTime::now();
        let since = began.duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = format!("{}-{}-{}", owner.host, owner.process, since.as_millis());
        let folder = sweep.attempts(&job.key).join(name);
        fs::create_dir_all(folder.join("results"))?;
        let attempt = Self {
            folder,
            record: Record {
                job: job.clone(),
                owner: owner.clone(),
                command: Vec::new(),
                began: since.as_secs_f64(),
                state: State::Running,
                seconds: None,
                error: None,
            },
            began,
        };
        attempt.write()?;
        Ok(attempt)
    }

    /// Says which command makes it.
    ///
    /// # Errors
    /// If that can't be written.
    pub fn made_by(&mut self, command: Vec<String>) -> io::Result<()> {
        self.record.command = command;
        self.write()
    }

    /// The folder of its own results.
    pub fn results(&self) -> PathBuf {
        self.folder.join("results")
    }

    /// The file of what its process prints.
    pub fn log(&self) -> PathBuf {
        self.folder.join("log.txt")
    }

    /// Says how it went.
    ///
    /// # Errors
    /// If that can't be written.
    pub fn end(mut self, state: State, error: Option<String>) -> io::Result<f64> {
        let seconds = self.began.elapsed().unwrap_or_default().as_secs_f64();
        self.record.state = state;
        self.record.seconds = Some(seconds);
        self.record.error = error;
        self.write()?;
        Ok(seconds)
    }

    fn write(&self) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(&self.record)?;
        write_file(&self.folder.join(RECORD), &text)
    }

    /// The last line of its log, which says why it failed.
    pub fn last_line(&self) -> Option<String> {
        last_line(&self.log())
    }
}

fn last_line(log: &Path) -> Option<String> {
    let text = String::from_utf8_lossy(&files::read(log).ok()?).into_owned();
    let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
    Some(line.strip_prefix("error: ").unwrap_or(line).to_owned())
}

/// What all attempts at a job say, the first one first. Half a record is none.
pub fn records(sweep: &SweepFolder, key: &Key) -> Vec<Record> {
    let attempts = entries(&sweep.attempts(key)).into_iter();
    let read = |folder: PathBuf| {
        let text = files::read(&folder.join(RECORD)).ok()?;
        serde_json::from_slice::<Record>(&text).ok()
    };
    let mut found: Vec<Record> = attempts.filter_map(read).collect();
    found.sort_by(|one, other| one.began.total_cmp(&other.began));
    found
}
