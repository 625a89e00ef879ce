//! A sweep's folder: what's where, and what's there already.
//!
//! ```text
//! plan.jsonl                                    what's to be measured
//! plan.index                                    where each job's line is in it
//! results/<hardware>/<name>--<key>.json         one result a job, published by rename
//! done/<work>/<program>                         of each published result its path, by the two parts of its key
//! attempts/<key>/<host>-<process>-<time>/       every attempt at a job, with its log and its own results
//! claims/<key>                                  who is at a job now; it saves work and protects nothing
//! logs/                                         what an engine writes of its tasks
//! submissions.jsonl                             what was submitted to engines
//! cancelled                                     whoever runs the sweep stops
//! ```
//!
//! All of it may be on a folder that many machines share. Nothing in it is locked: a file appears
//! whole by a rename, and a job that's measured twice is published once.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::hardware;
use super::job::{Job, Key};
use super::plan::{Plan, PlanFileError};
use crate::files::{self, temporary_file, write_file};
use crate::report::{self, Report, Status};

/// A sweep's folder.
#[derive(Debug, Clone)]
pub struct SweepFolder {
    path: PathBuf,
}

/// What's published, by what was measured.
#[derive(Debug, Default)]
pub struct Published(HashMap<String, Vec<(Key, PathBuf)>>);

/// Whether a job's result is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum There {
    /// It is.
    Yes(PathBuf),
    /// The same was measured by another revision of the program, or of ONNX Runtime.
    OtherProgram(PathBuf),
    /// It isn't.
    No,
}

impl SweepFolder {
    /// The sweep in the folder `path`.
    pub fn new(path: &Path) -> Self {
        Self {
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The plan's file.
    pub fn plan_file(&self) -> PathBuf {
        self.path.join("plan.jsonl")
    }

    /// The plan.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn plan(&self) -> Result<Plan, PlanFileError> {
        Plan::read(&self.plan_file())
    }

    /// The plan with the jobs alone that `choose` chooses of so many, and their numbers. With
    /// `expected`, it has to be the plan with this hash.
    ///
    /// # Errors
    /// If it can't be read or is another; or `choose`'s.
    pub fn plan_of<E: From<PlanFileError>>(
        &self,
        expected: Option<&str>,
        choose: impl Fn(usize) -> Result<Vec<usize>, E>,
    ) -> Result<(Plan, Vec<usize>), E> {
        Plan::read_some(&self.plan_file(), expected, choose)
    }

    /// The folder of published results.
    pub fn results(&self) -> PathBuf {
        self.path.join("results")
    }

    /// The folders of published results, one for each kind of hardware, in order.
    pub fn hardware(&self) -> Vec<PathBuf> {
        let mut folders = entries(&self.results());
        folders.retain(|path| path.is_dir());
        folders.sort();
        folders
    }

    /// The folder of all attempts at a job.
    pub fn attempts(&self, key: &Key) -> PathBuf {
        self.path.join("attempts").join(key.as_str())
    }

    /// The folder of what tells where a key's result is.
    fn done(&self, key: &Key) -> PathBuf {
        self.path.join("done").join(key.work())
    }

    /// Whether the result of `job` is there, without looking at all others.
    pub fn there(&self, job: &Job) -> There {
        let result = |mark: &Path| {
            let below = files::read_to_string(mark).ok()?;
            let is_inside = files::is_plain(Path::new(&below));
            Some(self.path.join(below)).filter(|path| is_inside && path.is_file())
        };
        let folder = self.done(&job.key);
        if let Some(path) = result(&folder.join(job.key.program())) {
            return There::Yes(path);
        }
        let is_whole = |mark: &PathBuf| {
            let name = mark.file_name().unwrap_or_default();
            !name.as_encoded_bytes().starts_with(b".")
        };
        let mut others = entries(&folder).into_iter().filter(is_whole);
        let other = others.find_map(|mark| result(&mark));
        other.map_or(There::No, There::OtherProgram)
    }

    /// Says where the result of `key` is.
    fn mark(&self, key: &Key, result: &Path) -> io::Result<()> {
        let below = result.strip_prefix(&self.path).unwrap_or(result);
        let folder = self.done(key);
        fs::create_dir_all(&folder)?;
        let text = below.as_os_str().as_encoded_bytes();
        write_file(&folder.join(key.program()), text)
    }

    /// The folder of claims.
    pub fn claims(&self) -> PathBuf {
        self.path.join("claims")
    }

    /// The folder of engines' logs.
    pub fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// The file of submissions.
    pub fn submissions(&self) -> PathBuf {
        self.path.join("submissions.jsonl")
    }

    /// The file that stops whoever runs the sweep.
    pub fn cancelled(&self) -> PathBuf {
        self.path.join("cancelled")
    }

    /// What's published now, by the names of files alone.
    pub fn published(&self) -> Published {
        let mut found = Published::default();
        for path in self.hardware().iter().flat_map(|folder| entries(folder)) {
            let is_result = path.extension().is_some_and(|ending| ending == "json");
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            if let Some(key) = Key::at_end(&stem).filter(|_| is_result) {
                let of_work = found.0.entry(key.work().to_owned()).or_default();
                of_work.push((key, path));
            }
        }
        for of_work in found.0.values_mut() {
            of_work.sort();
        }
        found
    }

    /// Publishes the successful result that an attempt left in `results`, if there's one. A result
    /// that's there already stays.
    ///
    /// # Errors
    /// If it can't be read or written.
    pub fn publish(&self, key: &Key, results: &Path) -> io::Result<Option<PathBuf>> {
        let is_json = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "json");
        for path in entries(results).into_iter().filter(is_json) {
            let report = report::read(&path).map_err(io::Error::other)?;
            if report.run_info.status == Status::Success {
                return self.publish_report(key, &path, &report).map(Some);
            }
        }
        Ok(None)
    }

    fn publish_report(&self, key: &Key, path: &Path, report: &Report) -> io::Result<PathBuf> {
        let folder = self.results().join(hardware::name(report));
        fs::create_dir_all(&folder)?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let target = folder.join(format!("{stem}--{key}.json"));
        let mut file = temporary_file(&folder)?;
        file.write_all(&fs::read(path)?)?;
        file.as_file().sync_all()?;
        match file.persist_noclobber(&target) {
            // Another attempt was first.
            Err(_) if target.is_file() => {}
            Err(error) => return Err(error.error),
            Ok(_) => {}
        }
        self.mark(key, &target)?;
        Ok(target)
    }

    /// Publishes what an earlier attempt at the job measured to its end and didn't publish.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn adopt(&self, key: &Key) -> io::Result<Option<PathBuf>> {
        let mut attempts = entries(&self.attempts(key));
        attempts.sort();
        for attempt in attempts {
            // A file that was cut off is none.
            if let Ok(Some(path)) = self.publish(key, &attempt.join("results")) {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }
}

impl Published {
    /// A key of each thing that was measured.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.0
            .values()
            .filter_map(|of_work| Some(&of_work.first()?.0))
    }

    /// Whether the result of `job` is there.
    pub fn of(&self, job: &Job) -> There {
        let Some(of_work) = self.0.get(job.key.work()) else {
            return There::No;
        };
        match of_work.iter().find(|(key, _)| *key == job.key) {
            Some((_, path)) => There::Yes(path.clone()),
            None => of_work
                .last()
                .map_or(There::No, |(_, path)| There::OtherProgram(path.clone())),
        }
    }
}

impl There {
    /// Whether nothing needs to be measured; what another revision of the program measured will do
    /// unless it's to be measured anew.
    pub fn will_do(&self, only_this_program: bool) -> bool {
        match self {
            Self::Yes(_) => true,
            Self::OtherProgram(_) => !only_this_program,
            Self::No => false,
        }
    }
}

/// The paths in `folder`; none if it isn't there.
pub fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}
