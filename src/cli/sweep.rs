//! `peft-bench sweep`

mod cancel;
mod manifest;
mod plan;
mod report;
mod run;
mod size;
mod status;
mod submit;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use super::Outcome;
use super::examples;
use super::options::{CommonOptions, RESULTS};
use crate::sweep::SweepFolder;

/// The folder of sweeps.
const SWEEPS: &str = "sweeps";

/// `sweep`
#[derive(Debug, Args)]
pub struct Sweep {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the jobs of experiments × models × dtypes × quantizations × batch sizes, and say which can't run.
    #[command(after_help = examples::SWEEP_PLAN)]
    Plan(plan::Plan),
    /// Run jobs on this machine, or the one that an engine's task is for.
    #[command(after_help = examples::SWEEP_RUN)]
    Run(run::Run),
    /// Have an engine run the jobs that aren't done: Slurm, or HyperQueue.
    #[command(after_help = examples::SWEEP_SUBMIT)]
    Submit(submit::Submit),
    /// Say how the jobs stand.
    Status(status::Status),
    /// Stop whoever runs the jobs.
    Cancel(cancel::Cancel),
    /// Print the tables of the results, for each kind of hardware.
    Report(report::Report),
    /// Write a manifest for an engine that takes one.
    #[command(after_help = examples::SWEEP_MANIFEST)]
    Manifest(manifest::Manifest),
}

/// Which sweep.
#[derive(Debug, Args)]
struct Which {
    /// The sweep's folder [default: the only one in `sweeps/`]
    #[arg(value_name = "SWEEP")]
    folder: Option<PathBuf>,
}

impl Sweep {
    /// Runs the command.
    pub fn run(&self, common: &CommonOptions) -> Result<Outcome> {
        match &self.command {
            Command::Plan(command) => return command.run(common),
            Command::Report(command) => return command.run(common),
            _ => {}
        }
        if let Some(option) = common.arguments().first() {
            bail!(
                "`{option}` is chosen in the plan, for all jobs: give it to `peft-bench sweep plan`"
            );
        }
        refuse_output(common)?;
        match &self.command {
            Command::Run(command) => command.run(),
            Command::Submit(command) => command.run(),
            Command::Status(command) => command.run(),
            Command::Cancel(command) => command.run(),
            Command::Manifest(command) => command.run().map(|()| Outcome::Done),
            Command::Plan(_) | Command::Report(_) => Ok(Outcome::Done),
        }
    }
}

/// Results are in the sweep's own folder.
fn refuse_output(common: &CommonOptions) -> Result<()> {
    match common.output == Path::new(RESULTS) {
        true => Ok(()),
        false => bail!(
            "`--output` has no meaning here: results are in the sweep's folder, which `peft-bench sweep plan --to DIR` \
             chooses"
        ),
    }
}

impl Which {
    fn folder(&self) -> Result<SweepFolder> {
        if let Some(folder) = &self.folder {
            return Ok(SweepFolder::new(folder));
        }
        let entries = std::fs::read_dir(SWEEPS).into_iter().flatten().flatten();
        let folders = entries.map(|entry| SweepFolder::new(&entry.path()));
        let mut sweeps: Vec<SweepFolder> = folders
            .filter(|sweep| sweep.plan_file().is_file())
            .collect();
        match (sweeps.pop(), sweeps.len()) {
            (Some(only), 0) => Ok(only),
            (None, _) => {
                bail!("there's no sweep in `{SWEEPS}/`; `peft-bench sweep plan` makes one")
            }
            (Some(_), others) => bail!(
                "there are {} sweeps in `{SWEEPS}/`: name one, such as `peft-bench sweep status {SWEEPS}/NAME`",
                others + 1
            ),
        }
    }
}

/// `one job`, `3 jobs`.
fn counted(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}
