//! HyperQueue: one job with a task for each job of the plan.
//!
//! HyperQueue pins nothing to the cores that it gives a task, and says in `HQ_CPUS` which they are;
//! `sweep run` pins to those.

use std::path::Path;

use super::{LaunchError, Submission, Tasks, listed, output, program};
use crate::sweep::folder::SweepFolder;

const HQ: &str = "hq";

/// The arguments of `hq` for `tasks`.
pub fn arguments(tasks: &Tasks, program: &Path) -> Vec<String> {
    let logs = SweepFolder::new(tasks.sweep).logs();
    let log = logs
        .join("hq-%{JOB_ID}_%{TASK_ID}.txt")
        .display()
        .to_string();
    let mut arguments = [
        "submit",
        "--output-mode=quiet",
        &format!("--name={}", tasks.name()),
        &format!("--array={}", listed(tasks.numbers)),
        &format!("--cpus={}", tasks.cpus),
        &format!("--stdout={log}"),
        &format!("--stderr={log}"),
    ]
    .map(str::to_owned)
    .to_vec();
    if tasks.plan.common.gpu {
        arguments.push("--resource=gpus/nvidia=1".to_owned());
    }
    arguments.extend(tasks.engine_options.iter().cloned());
    arguments.push("--".to_owned());
    arguments.extend(tasks.command(program, ["--index", "auto"]));
    arguments
}

/// Submits `tasks`.
///
/// # Errors
/// If HyperQueue refuses them.
pub fn submit(sweep: &SweepFolder, tasks: &Tasks) -> Result<Submission, LaunchError> {
    std::fs::create_dir_all(sweep.logs()).map_err(|source| LaunchError::Write {
        path: sweep.logs(),
        source,
    })?;
    let output = output(HQ, &arguments(tasks, &program()?))?;
    let number = output.split_whitespace().last().unwrap_or_default();
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(LaunchError::NoNumber {
            program: HQ,
            output,
        });
    }
    Ok(Submission {
        launcher: HQ.to_owned(),
        ids: vec![number.to_owned()],
        tasks: tasks.numbers.len(),
        plan: tasks.plan.hash.clone(),
    })
}

/// Cancels what was submitted.
///
/// # Errors
/// If HyperQueue doesn't.
pub fn cancel(submission: &Submission) -> Result<(), LaunchError> {
    let verb = [
        "job".to_owned(),
        "cancel".to_owned(),
        submission.ids.join(","),
    ];
    output(HQ, &verb).map(|_| ())
}
