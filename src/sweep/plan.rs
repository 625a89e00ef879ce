//! The plan of a sweep: a file of JSON lines. The first says what all jobs share; then comes a line
//! for each job, and one for each combination that can't be measured.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::job::{Job, Refusal};
use super::plan_index::{self, IndexedLines};
use crate::advice::shell_word;
use crate::file_names::hex;
use crate::files::{read_to_string, write_file};

/// The version of the plan's format.
const VERSION: u32 = 1;
/// Digits of a plan's hash that name it.
const DIGITS: usize = 12;

/// A plan that can't be read or written.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum PlanFileError {
    #[error("cannot read `{}`; `peft-bench sweep plan` writes it", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("line {line} of `{}` is damaged", path.display())]
    Damaged {
        path: PathBuf,
        line: usize,
        source: serde_json::Error,
    },
    #[error(
        "`{}` has version {found} of the format, and this program reads {VERSION}: make it anew with `peft-bench sweep plan`",
        path.display()
    )]
    Version { path: PathBuf, found: u32 },
    #[error(
        "`{}` has {found} jobs where its first line says {expected}: it's cut off, so make it anew with `peft-bench sweep plan`",
        path.display()
    )]
    Cut {
        path: PathBuf,
        expected: usize,
        found: usize,
    },
    #[error("cannot write `{}`", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error(
        "the plan in `{}` is {found}, and this task was submitted for {expected}: submit it anew with `peft-bench sweep \
         submit {word}`",
        path.display(),
        word = shell_word(path.parent().unwrap_or(path))
    )]
    Changed {
        path: PathBuf,
        expected: String,
        found: String,
    },
}

/// What all jobs of a plan share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Common {
    /// [`VERSION`] of the program that wrote it.
    pub sweep: u32,
    /// The folder that relative paths are meant in.
    pub folder: PathBuf,
    /// Options of every `peft-bench measure`.
    pub options: Vec<String>,
    /// Those of them that `peft-bench prepare` takes too.
    pub prepare_options: Vec<String>,
    /// Threads of a job, if they're chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// Whether jobs need a GPU.
    pub gpu: bool,
    /// The program that the keys are for.
    pub program: Value,
    /// The number of jobs.
    pub jobs: usize,
    /// The number of combinations that can't be measured.
    pub refused: usize,
}

/// The plan of a sweep.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What all jobs share.
    pub common: Common,
    /// The jobs, by number: all of them, or those that were asked for.
    pub jobs: Vec<Job>,
    /// What can't be measured; none if only some jobs were asked for.
    pub refusals: Vec<Refusal>,
    /// A hash of all of it, which names the plan.
    pub hash: String,
}

impl Plan {
    /// A plan of `jobs`.
    pub fn new(mut common: Common, jobs: Vec<Job>, refusals: Vec<Refusal>) -> Self {
        (common.sweep, common.jobs, common.refused) = (VERSION, jobs.len(), refusals.len());
        let mut plan = Self {
            common,
            jobs,
            refusals,
            hash: String::new(),
        };
        plan.hash = hash_of(&plan.text());
        plan
    }

    /// Reads the plan at `path`.
    ///
    /// # Errors
    /// If it isn't there, is damaged, or was written by another version.
    pub fn read(path: &Path) -> Result<Self, PlanFileError> {
        let text = read_to_string(path).map_err(|source| PlanFileError::Read {
            path: path.to_owned(),
            source,
        })?;
        let damaged = |line: usize, source| PlanFileError::Damaged {
            path: path.to_owned(),
            line,
            source,
        };
        let mut lines = text.lines().enumerate().map(|(at, line)| (at + 1, line));
        let (_, first) = lines.next().unwrap_or((1, ""));
        let common: Common = serde_json::from_str(first).map_err(|source| damaged(1, source))?;
        if common.sweep != VERSION {
            return Err(PlanFileError::Version {
                path: path.to_owned(),
                found: common.sweep,
            });
        }
        let (mut jobs, mut refusals) = (Vec::new(), Vec::new());
        for (line, text) in lines {
            match jobs.len() < common.jobs {
                true => jobs.push(serde_json::from_str(text).map_err(|why| damaged(line, why))?),
                false => {
                    refusals.push(serde_json::from_str(text).map_err(|why| damaged(line, why))?);
                }
            }
        }
        if jobs.len() != common.jobs || refusals.len() != common.refused {
            return Err(PlanFileError::Cut {
                path: path.to_owned(),
                expected: common.jobs,
                found: jobs.len(),
            });
        }
        Ok(Self {
            hash: hash_of(&text),
            common,
            jobs,
            refusals,
        })
    }

    /// Reads the plan at `path` with the jobs alone that `choose` chooses of so many, where its index
    /// tells where they are; else all of it. It returns their numbers, too. With `expected`, it has
    /// to be the plan with this hash, which a task was submitted for.
    ///
    /// # Errors
    /// If the plan can't be read or is another; or `choose`'s.
    pub fn read_some<E: From<PlanFileError>>(
        path: &Path,
        expected: Option<&str>,
        choose: impl Fn(usize) -> Result<Vec<usize>, E>,
    ) -> Result<(Self, Vec<usize>), E> {
        if let Some(lines) = IndexedLines::open(path)
            && let Some(common) = lines.line(0)
            && let Ok(common) = serde_json::from_str::<Common>(&common)
            && common.sweep == VERSION
            && common.jobs < lines.lines
            && expected.is_none_or(|expected| expected == lines.hash)
        {
            let numbers = choose(common.jobs)?;
            let job = |number: &usize| {
                let job: Job = serde_json::from_str(&lines.line(number + 1)?).ok()?;
                (job.job == *number).then_some(job)
            };
            let jobs: Option<Vec<Job>> = numbers.iter().map(job).collect();
            if let Some(jobs) = jobs {
                let plan = Self {
                    common,
                    jobs,
                    refusals: Vec::new(),
                    hash: lines.hash,
                };
                return Ok((plan, numbers));
            }
        }
        let plan = Self::read(path)?;
        plan.check(path, expected)?;
        let numbers = choose(plan.common.jobs)?;
        Ok((plan, numbers))
    }

    /// The job with this number, if it's among those that were read.
    pub fn job(&self, number: usize) -> Option<&Job> {
        let place = self.jobs.binary_search_by_key(&number, |job| job.job);
        place.ok().map(|place| &self.jobs[place])
    }

    /// Writes it to `path`, and its index beside it.
    ///
    /// # Errors
    /// If that fails.
    pub fn write(&self, path: &Path) -> Result<(), PlanFileError> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let text = self.text();
        let written = fs::create_dir_all(folder)
            .and_then(|()| write_file(path, text.as_bytes()))
            .and_then(|()| plan_index::write(path, &text, &self.hash));
        written.map_err(|source| PlanFileError::Write {
            path: path.to_owned(),
            source,
        })
    }

    fn check(&self, path: &Path, expected: Option<&str>) -> Result<(), PlanFileError> {
        match expected {
            Some(expected) if expected != self.hash => Err(PlanFileError::Changed {
                path: path.to_owned(),
                expected: expected.to_owned(),
                found: self.hash.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// The file's text.
    fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |json: serde_json::Result<String>| {
            text.push_str(&json.expect("a plan's keys are all texts"));
            text.push('\n');
        };
        line(serde_json::to_string(&self.common));
        for job in &self.jobs {
            line(serde_json::to_string(job));
        }
        for refusal in &self.refusals {
            line(serde_json::to_string(refusal));
        }
        text
    }

    /// The arguments of the `peft-bench measure` that does `job`.
    pub fn measuring(&self, job: &Job) -> Vec<String> {
        let own = job.combination.arguments(true).into_iter();
        ["measure".to_owned()]
            .into_iter()
            .chain(own)
            .chain(self.common.options.iter().cloned())
            .collect()
    }

    /// The arguments of the `peft-bench prepare` that makes what `job` needs.
    pub fn preparing(&self, job: &Job) -> Vec<String> {
        let own = job.combination.arguments(false).into_iter();
        ["prepare".to_owned()]
            .into_iter()
            .chain(own)
            .chain(self.common.prepare_options.iter().cloned())
            .collect()
    }
}

fn hash_of(text: &str) -> String {
    let mut digest = hex(&Sha256::digest(text.as_bytes()));
    digest.truncate(DIGITS);
    digest
}
