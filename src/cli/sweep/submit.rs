//! `peft-bench sweep submit`

use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use super::{Which, counted};
use crate::advice::shell_word;
use crate::cli::Outcome;
use crate::cli::output::print;
use crate::cli::progress::message;
use crate::sweep::SweepFolder;
use crate::sweep::launch::{self, Tasks, hyperqueue, slurm};

/// Slurm's largest array, where no Slurm is asked.
const USUAL_ARRAY: usize = 1001;

/// `sweep submit`
#[derive(Debug, Args)]
pub struct Submit {
    #[command(flatten)]
    which: Which,

    /// The engine.
    #[arg(long, value_enum)]
    launcher: Launcher,

    /// Print what would be submitted, and submit nothing.
    #[arg(long)]
    print: bool,

    /// The most tasks at once [default: as many as the engine starts].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    at_once: Option<u32>,

    /// Cores of a task [default: the plan's `--threads`, else 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    cpus: Option<u32>,

    /// Try a job that failed so often again, within its task.
    #[arg(long, value_name = "N", default_value_t = 0)]
    retries: usize,

    /// End a job that takes longer, such as `30m`.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,

    /// Measure anew what another revision of this program or of ONNX Runtime measured.
    #[arg(long)]
    this_program: bool,

    /// Options of the engine, after `--`, such as `--partition=gpu --gres=gpu:1 --time=60`.
    #[arg(last = true, value_name = "ENGINE OPTIONS", allow_hyphen_values = true)]
    engine: Vec<String>,
}

/// An engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Launcher {
    /// A job array, and a job behind it that reports.
    Slurm,
    /// HyperQueue: a job with a task for each of the plan's.
    Hq,
}

impl Submit {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        let folder = self.which.folder()?;
        let plan = folder.plan()?;
        let published = folder.published();
        let open = plan
            .jobs
            .iter()
            .filter(|job| !published.of(job).will_do(self.this_program));
        let open: Vec<usize> = open.map(|job| job.job).collect();
        let word = shell_word(self.which.folder.as_deref().unwrap_or(folder.path()));
        if open.is_empty() {
            message(&format!(
                "all jobs are done; next: `peft-bench sweep report {word}`"
            ));
            return Ok(Outcome::Done);
        }
        let run_options = self.run_options();
        let tasks = Tasks {
            sweep: folder.path(),
            plan: &plan,
            numbers: &open,
            at_once: self.at_once.map(|most| most as usize),
            cpus: self
                .cpus
                .map_or(plan.common.threads.unwrap_or(1), |cpus| cpus as usize),
            run_options: &run_options,
            engine_options: &self.engine,
        };
        if self.print {
            return self.shown(&tasks).map(|()| Outcome::Done);
        }
        let (submission, caveat) = match self.launcher {
            Launcher::Slurm => slurm::submit(&folder, &tasks)?,
            Launcher::Hq => (hyperqueue::submit(&folder, &tasks)?, None),
        };
        if let Some(caveat) = caveat {
            message(&format!(
                "note: there's no node for these tasks now, and perhaps never: {caveat}. They wait; `peft-bench sweep cancel \
                 {word}` takes them back"
            ));
        }
        submission.keep(&folder).with_context(|| {
            let path = folder.submissions();
            format!(
                "submitted as {}, but cannot write `{}`",
                submission.ids.join(", "),
                path.display()
            )
        })?;
        let then = match self.launcher {
            Launcher::Slurm => format!(
                "; the report will be in {}",
                folder.path().join("report.md").display()
            ),
            Launcher::Hq => format!("; once it's done: `peft-bench sweep report {word}`"),
        };
        message(&format!(
            "submitted {} for {} as {}{then}",
            counted(submission.tasks, "task"),
            counted(open.len(), "job"),
            submission.ids.join(", ")
        ));
        message(&format!("next: `peft-bench sweep status {word}`"));
        Ok(Outcome::Done)
    }

    /// Options of `sweep run` in each task.
    fn run_options(&self) -> Vec<String> {
        let mut options = vec!["--keep-going".to_owned()];
        if self.retries > 0 {
            options.extend(["--retries".to_owned(), self.retries.to_string()]);
        }
        if let Some(timeout) = self.timeout {
            let timeout = humantime::format_duration(timeout).to_string();
            options.extend(["--timeout".to_owned(), timeout.replace(' ', "")]);
        }
        if self.this_program {
            options.push("--this-program".to_owned());
        }
        options
    }

    fn shown(&self, tasks: &Tasks) -> Result<()> {
        let program = launch::program()?;
        match self.launcher {
            Launcher::Slurm => {
                let scripts = slurm::scripts(tasks, &program, USUAL_ARRAY);
                let folder = SweepFolder::new(tasks.sweep);
                print(&format!(
                    "# {}/slurm-array.sh\n{}\n# {0}/slurm-report.sh, with --dependency=afterany:ARRAY\n{}",
                    folder.path().display(),
                    scripts.array,
                    scripts.report
                ))
            }
            Launcher::Hq => {
                let arguments = hyperqueue::arguments(tasks, &program);
                let words = arguments.iter().map(|word| shell_word(word.as_ref()));
                print(&format!("hq {}\n", words.collect::<Vec<_>>().join(" ")))
            }
        }
    }
}
