//! Slurm: a job array with a task for each job, and a job behind it that reports.
//!
//! - A task `exec`s this program, so that a signal of `scancel` reaches no shell in between.
//! - The report waits for the array's end, whatever came of it (`afterany`), and looks at files.
//! - A requeued task appends to its log.
//! - Slurm tries nothing again after an exit code: `sweep run --retries` does.

use std::fs;
use std::path::{Path, PathBuf};

use super::{LaunchError, Submission, Tasks, listed, output, program, shell_line};
use crate::files::write_file;
use crate::sweep::folder::SweepFolder;

const SBATCH: &str = "sbatch";

/// The scripts of an array and of the report behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scripts {
    /// The array's.
    pub array: String,
    /// The report's.
    pub report: String,
    /// The number of tasks.
    pub tasks: usize,
}

/// The scripts for `tasks`, on a Slurm with arrays of at most `most` tasks. Where there are more
/// jobs, each task does several.
pub fn scripts(tasks: &Tasks, program: &Path, most: usize) -> Scripts {
    let jobs = tasks.numbers;
    let last_index = most.saturating_sub(1).max(1);
    let fits = jobs.last().is_none_or(|last| *last <= last_index);
    let shards = most.clamp(1, jobs.len().max(1));
    let of_all = format!("auto/{shards}");
    let (array, which, count) = match fits {
        true => (listed(jobs), ["--index", "auto"], jobs.len()),
        false => (
            format!("0-{}", shards - 1),
            ["--shard", of_all.as_str()],
            shards,
        ),
    };
    let limit = tasks
        .at_once
        .map_or_else(String::new, |most| format!("%{most}"));
    let sweep = SweepFolder::new(tasks.sweep);
    let logs = sweep.logs();
    let header = |name: &str, options: &[String]| {
        let mut lines = vec![format!("--job-name={name}")];
        lines.push(format!("--comment=plan={}", tasks.plan.hash));
        lines.extend(options.iter().cloned());
        // Later options win, so the user's come last.
        lines.extend(tasks.engine_options.iter().cloned());
        let lines = lines.iter().map(|line| format!("#SBATCH {line}\n"));
        format!("#!/bin/bash\n{}", lines.collect::<String>())
    };
    let of_array = header(
        &tasks.name(),
        &[
            format!("--array={array}{limit}"),
            format!("--cpus-per-task={}", tasks.cpus),
            "--requeue".to_owned(),
            "--open-mode=append".to_owned(),
            format!("--output={}", quoted(&logs.join("slurm-%A_%a.txt"))),
        ],
    );
    let command = tasks.command(program, which);
    let path = |path: &Path| path.display().to_string();
    let own = |verb: &str, more: &[String]| {
        let words = [
            path(program),
            "sweep".to_owned(),
            verb.to_owned(),
            path(tasks.sweep),
        ];
        shell_line(&[&words[..], more].concat())
    };
    let of_report = format!(
        "#!/bin/bash\n{}",
        [
            format!("--job-name={}-report", tasks.name()),
            format!("--output={}", quoted(&logs.join("slurm-report-%j.txt"))),
            "--cpus-per-task=1".to_owned(),
        ]
        .map(|line| format!("#SBATCH {line}\n"))
        .concat()
    );
    let page = path(&sweep.path().join("report.md"));
    Scripts {
        array: format!("{of_array}exec {}\n", shell_line(&command)),
        report: format!(
            "{of_report}{}\nexec {}\n",
            own("report", &["--output".to_owned(), page]),
            own("status", &[])
        ),
        tasks: count,
    }
}

/// A path in a line of options, in which Slurm takes quotes.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    match text.contains(' ') {
        true => format!("\"{text}\""),
        false => text,
    }
}

/// Writes the scripts into the sweep's folder; returns their paths.
///
/// # Errors
/// If they can't be written.
pub fn write(sweep: &SweepFolder, scripts: &Scripts) -> Result<[PathBuf; 2], LaunchError> {
    let paths = ["slurm-array.sh", "slurm-report.sh"].map(|name| sweep.path().join(name));
    for (path, text) in paths.iter().zip([&scripts.array, &scripts.report]) {
        let written =
            fs::create_dir_all(sweep.logs()).and_then(|()| write_file(path, text.as_bytes()));
        written.map_err(|source| LaunchError::Write {
            path: path.clone(),
            source,
        })?;
    }
    Ok(paths)
}

/// Submits `tasks`, and the report behind them; says if there's no node for them now, why.
///
/// # Errors
/// If Slurm refuses them.
pub fn submit(
    sweep: &SweepFolder,
    tasks: &Tasks,
) -> Result<(Submission, Option<String>), LaunchError> {
    let scripts = scripts(tasks, &program()?, largest_array());
    let [array, report] = write(sweep, &scripts)?.map(|path| path.display().to_string());
    // Slurm accepts an array for which there's no node, and leaves it waiting, perhaps for ever.
    let caveat = match output(SBATCH, &["--test-only".to_owned(), array.clone()]) {
        Err(LaunchError::Refused { output, .. }) => Some(output),
        tested => {
            tested?;
            None
        }
    };
    let array = submitted(&[array])?;
    let behind = format!("--dependency=afterany:{array}");
    let report = submitted(&[behind, report])?;
    let submission = Submission {
        launcher: "slurm".to_owned(),
        ids: vec![array, report],
        tasks: scripts.tasks,
        plan: tasks.plan.hash.clone(),
    };
    Ok((submission, caveat))
}

fn submitted(arguments: &[String]) -> Result<String, LaunchError> {
    let output = output(SBATCH, &[&["--parsable".to_owned()], arguments].concat())?;
    // With several clusters, the cluster's name follows.
    let number = output.split(';').next().unwrap_or_default().trim();
    match !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) {
        true => Ok(number.to_owned()),
        false => Err(LaunchError::NoNumber {
            program: SBATCH,
            output,
        }),
    }
}

/// The largest number of tasks of an array here, `MaxArraySize`; Slurm's own where it doesn't tell.
fn largest_array() -> usize {
    const USUAL: usize = 1001;
    let config = output("scontrol", &["show".to_owned(), "config".to_owned()]);
    let config = config.unwrap_or_default();
    let line = config.lines().find(|line| line.starts_with("MaxArraySize"));
    let size = line.and_then(|line| line.split('=').nth(1)?.trim().parse().ok());
    size.unwrap_or(USUAL)
}

/// Cancels what was submitted.
///
/// # Errors
/// If Slurm doesn't.
pub fn cancel(submission: &Submission) -> Result<(), LaunchError> {
    let quiet = ["--quiet".to_owned()];
    output("scancel", &[&quiet[..], &submission.ids].concat()).map(|_| ())
}

/// How many tasks are in which state, as Slurm tells it; none once it has forgotten them.
pub fn states(submission: &Submission) -> Result<Vec<String>, LaunchError> {
    let ids = submission.ids.join(",");
    let arguments = ["--noheader", "--array", "--format=%T", "--jobs", &ids].map(str::to_owned);
    // An old number is an error.
    let told = output("squeue", &arguments);
    match told {
        Err(LaunchError::Refused { .. }) => Ok(Vec::new()),
        told => Ok(told?.lines().map(str::to_lowercase).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::plan::{Common, Plan};

    fn scripts_of(numbers: &[usize], most: usize) -> Scripts {
        let common = Common {
            sweep: 0,
            folder: "/work".into(),
            options: Vec::new(),
            prepare_options: Vec::new(),
            threads: None,
            gpu: false,
            program: serde_json::Value::Null,
            jobs: 0,
            refused: 0,
        };
        let plan = Plan::new(common, Vec::new(), Vec::new());
        let options = ["--partition=p".to_owned()];
        let tasks = Tasks {
            sweep: Path::new("/shared/my sweep"),
            plan: &plan,
            numbers,
            at_once: Some(4),
            cpus: 2,
            run_options: &["--retries".to_owned(), "1".to_owned()],
            engine_options: &options,
        };
        scripts(&tasks, Path::new("/opt/peft-bench"), most)
    }

    #[test]
    fn an_array_has_the_open_jobs_and_a_task_replaces_its_shell() {
        let scripts = scripts_of(&[0, 1, 2, 7], 1001);
        assert!(
            scripts.array.contains("#SBATCH --array=0-2,7%4\n"),
            "{}",
            scripts.array
        );
        assert!(
            scripts
                .array
                .contains("--output=\"/shared/my sweep/logs/slurm-%A_%a.txt\"")
        );
        let last = scripts.array.lines().last().unwrap();
        assert!(
            last.starts_with(
                "exec /opt/peft-bench sweep run '/shared/my sweep' --index auto --plan "
            )
        );
        assert!(last.ends_with("--retries 1"), "{last}");
        assert!(
            scripts.report.contains("sweep report")
                && scripts.report.contains("exec /opt/peft-bench sweep status")
        );
        assert_eq!(scripts.tasks, 4);
    }

    #[test]
    fn more_jobs_than_an_array_may_have_are_done_in_shards() {
        let numbers: Vec<usize> = (0..1500).collect();
        let scripts = scripts_of(&numbers, 1001);
        assert!(
            scripts.array.contains("--array=0-1000%4")
                && scripts.array.contains("--shard auto/1001")
        );
        assert_eq!(scripts.tasks, 1001);
        // Few are open, and their numbers are too large.
        let scripts = scripts_of(&[1400, 1450], 1001);
        assert!(
            scripts.array.contains("--array=0-1%4") && scripts.array.contains("--shard auto/2")
        );
    }
}
