//! What has an engine run the jobs of a plan. Each task calls `sweep run` with its own number, and
//! finds everything else in the sweep's folder.

pub mod hyperqueue;
pub mod kubernetes;
pub mod slurm;
mod submissions;

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use thiserror::Error;

pub use submissions::{Submission, submissions};

use super::plan::Plan;
use crate::advice::shell_word;

/// Jobs that can't be submitted.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum LaunchError {
    #[error("cannot run `{program}`: is it installed here, and in `PATH`?")]
    Start {
        program: &'static str,
        source: io::Error,
    },
    #[error("`{command}` failed: {output}")]
    Refused { command: String, output: String },
    #[error("`{program}` was expected to print the job's number, and printed `{output}`")]
    NoNumber {
        program: &'static str,
        output: String,
    },
    #[error("cannot write `{}`", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot find this program's own file")]
    Program(#[source] io::Error),
}

/// What's to be submitted.
#[derive(Debug, Clone)]
pub struct Tasks<'a> {
    /// The sweep's folder.
    pub sweep: &'a Path,
    /// The plan.
    pub plan: &'a Plan,
    /// Numbers of the jobs that aren't done, in order.
    pub numbers: &'a [usize],
    /// The most tasks that run at once; `None` for as many as the engine starts.
    pub at_once: Option<usize>,
    /// Cores of a task.
    pub cpus: usize,
    /// Further options of `sweep run`.
    pub run_options: &'a [String],
    /// Further options of the engine.
    pub engine_options: &'a [String],
}

impl Tasks<'_> {
    /// The command of a task, whose jobs `which` chooses: `--index auto`, or `--shard auto/7`.
    fn command(&self, program: &Path, which: [&str; 2]) -> Vec<String> {
        let path = |path: &Path| path.display().to_string();
        let mut command = vec![
            path(program),
            "sweep".to_owned(),
            "run".to_owned(),
            path(self.sweep),
        ];
        command.extend(which.map(str::to_owned));
        command.extend(["--plan".to_owned(), self.plan.hash.clone()]);
        command.extend(self.run_options.iter().cloned());
        command
    }

    /// A name that tells which plan it is.
    fn name(&self) -> String {
        format!("peft-bench-{}", self.plan.hash)
    }
}

/// This program's own file.
///
/// # Errors
/// If it isn't known.
pub fn program() -> Result<PathBuf, LaunchError> {
    std::env::current_exe().map_err(LaunchError::Program)
}

/// Words as a line of a shell.
fn shell_line(words: &[String]) -> String {
    let words = words.iter().map(|word| shell_word(Path::new(word)));
    words.collect::<Vec<_>>().join(" ")
}

/// Numbers as engines take them: `0-3,8`.
fn listed(numbers: &[usize]) -> String {
    let numbers: Vec<u32> = numbers
        .iter()
        .filter_map(|&of| u32::try_from(of).ok())
        .collect();
    super::lanes::listed(&numbers)
}

/// What `program` prints, run with `arguments`.
fn output(program: &'static str, arguments: &[String]) -> Result<String, LaunchError> {
    let mut command = Command::new(program);
    command.args(arguments);
    // A job inherits the environment. These are of the task or the shell that submits it.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let is_of_task = name.starts_with("SLURM_") && name != "SLURM_CONF";
        if is_of_task || ["CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"].contains(&name.as_str()) {
            command.env_remove(name);
        }
    }
    let output = command
        .output()
        .map_err(|source| LaunchError::Start { program, source })?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let said = [text(&output.stderr), text(&output.stdout)];
    let command = [&[program.to_owned()], arguments].concat();
    Err(LaunchError::Refused {
        command: shell_line(&command),
        output: said
            .into_iter()
            .find(|text| !text.is_empty())
            .unwrap_or_default(),
    })
}
