//! `peft-bench sweep status`

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::{Which, counted};
use crate::cli::Outcome;
use crate::cli::output::{print, print_json};
use crate::sweep::launch::{slurm, submissions};
use crate::sweep::{self, Standing, SweepFolder};

/// Jobs of a kind, of which so many are named.
const MOST_TOLD: usize = 10;

/// `sweep status`
#[derive(Debug, Args)]
pub struct Status {
    #[command(flatten)]
    which: Which,

    /// Print an object with every job.
    #[arg(long)]
    json: bool,
}

impl Status {
    /// Runs the command.
    pub fn run(&self) -> Result<Outcome> {
        let folder = self.which.folder()?;
        let plan = folder.plan()?;
        let status = sweep::Status::of(&folder, &plan);
        match self.json {
            true => print_json(&as_json(&status, &plan.hash))?,
            false => print(&in_lines(&status, &folder, plan.refusals.len()))?,
        }
        let is_there =
            |one: &Standing| matches!(one, Standing::Done | Standing::DoneByOtherProgram);
        Ok(
            match status.count(|one| matches!(one, Standing::Failed(_))) {
                0 if status.count(is_there) == status.jobs.len() => Outcome::Done,
                0 => Outcome::Busy,
                _ => Outcome::Worse,
            },
        )
    }
}

fn as_json(status: &sweep::Status, plan: &str) -> serde_json::Value {
    let jobs = status.jobs.iter().map(|(job, standing, attempts)| {
        let (word, detail) = match standing {
            Standing::Done => ("done", None),
            Standing::DoneByOtherProgram => ("done_by_other_program", None),
            Standing::Running(by) => ("running", Some(by)),
            Standing::Failed(why) => ("failed", Some(why)),
            Standing::Interrupted => ("interrupted", None),
            Standing::Open => ("open", None),
        };
        json!({
            "job": job.job,
            "key": job.key,
            "combination": job.combination,
            "standing": word,
            "detail": detail,
            "attempts": attempts,
        })
    });
    json!({ "plan": plan, "jobs": jobs.collect::<Vec<_>>(), "other_results": status.strays })
}

fn in_lines(status: &sweep::Status, folder: &SweepFolder, refused: usize) -> String {
    let count = |is: fn(&Standing) -> bool| status.count(is);
    let other = count(|one| *one == Standing::DoneByOtherProgram);
    let done = count(|one| *one == Standing::Done) + other;
    let mut lines = vec![format!(
        "{} of {} done",
        done,
        counted(status.jobs.len(), "job")
    )];
    if other > 0 {
        lines.push(format!(
            "  {other} of them by another revision of this program or of ONNX Runtime"
        ));
    }
    let mut kind = |is: fn(&Standing) -> bool, word: &str| {
        let all = status.jobs.iter().filter(|(_, standing, _)| is(standing));
        let all: Vec<_> = all.collect();
        if all.is_empty() {
            return;
        }
        lines.push(format!("{} {word}", all.len()));
        for (job, standing, attempts) in all.iter().take(MOST_TOLD) {
            let detail = match standing {
                Standing::Running(by) => format!(": {by}"),
                Standing::Failed(why) => {
                    format!(
                        ": {why} ({}, see {})",
                        counted(*attempts, "attempt"),
                        folder.attempts(&job.key).display()
                    )
                }
                _ => String::new(),
            };
            lines.push(format!("  job {} ({}){detail}", job.job, job.combination));
        }
        if all.len() > MOST_TOLD {
            lines.push(format!(
                "  and {} more; `--json` has all",
                all.len() - MOST_TOLD
            ));
        }
    };
    kind(|one| matches!(one, Standing::Running(_)), "running");
    kind(|one| matches!(one, Standing::Failed(_)), "failed");
    kind(
        |one| *one == Standing::Interrupted,
        "interrupted, to be begun again",
    );
    let open = count(|one| *one == Standing::Open);
    if open > 0 {
        lines.push(format!("{open} not begun"));
    }
    if refused > 0 {
        lines.push(format!(
            "{} can't be measured (`peft-bench sweep plan` says why)",
            counted(refused, "combination")
        ));
    }
    for (why, count) in &status.strays {
        lines.push(format!(
            "{} of an earlier plan: {why}",
            counted(*count, "result")
        ));
    }
    lines.extend(engines(folder));
    lines.join("\n") + "\n"
}

/// What engines say of tasks that they haven't forgotten.
fn engines(folder: &SweepFolder) -> Vec<String> {
    let told = submissions(folder)
        .into_iter()
        .filter(|one| one.launcher == "slurm");
    let told = told.filter_map(|submission| {
        let states = slurm::states(&submission)
            .ok()
            .filter(|states| !states.is_empty())?;
        let mut counts = std::collections::BTreeMap::<String, usize>::new();
        for state in states {
            *counts.entry(state).or_default() += 1;
        }
        let counts = counts
            .iter()
            .map(|(state, count)| format!("{count} {state}"));
        let counts: Vec<String> = counts.collect();
        Some(format!(
            "Slurm says of {}: {}",
            submission.ids.join(", "),
            counts.join(", ")
        ))
    });
    told.collect()
}
