//! A temporary folder with a sweep of tiny models.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::common::*;

/// A folder with short prompts, few runs, and the fixture model with a tokenizer.
pub struct Place {
    pub folder: TempDir,
}

impl Place {
    pub fn new(runs: usize) -> Self {
        let folder = with_short_runs(runs);
        std::os::unix::fs::symlink(case("llama-gqa", ""), folder.path().join("cases")).unwrap();
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `peft-bench sweep` with locks of its own: tests don't wait for each other.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program(["sweep"]);
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("PEFT_BENCH_LOCKS", self.path("locks"));
        command
    }

    pub fn sweep(&self, arguments: &[&str]) -> Outcome {
        run(&mut self.command(arguments))
    }

    /// Plans these experiments with further options of `sweep plan`.
    pub fn plan(&self, experiments: &str, more: &[&str]) -> Outcome {
        let mut arguments = vec!["plan", "--experiments", experiments];
        arguments.extend(["--config", "config.json", "--ep", "cpu", "--threads", "1"]);
        arguments.extend(more);
        arguments.extend(["--", "--prompts", "prompts.json"]);
        self.sweep(&arguments)
    }

    #[track_caller]
    pub fn planned(&self, experiments: &str, more: &[&str]) {
        let outcome = self.plan(experiments, more);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    }

    /// Starts `sweep run` with further options.
    pub fn start(&self, more: &[&str]) -> Child {
        let mut command = self.command(&[&["run"], more].concat());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// Published results.
    pub fn results(&self) -> Vec<PathBuf> {
        files_below(&self.path("sweeps/sweep/results"))
    }

    /// What all attempts say, by key, in order.
    pub fn attempts(&self) -> BTreeMap<String, Vec<Value>> {
        let mut found = BTreeMap::<String, Vec<Value>>::new();
        for path in files_below(&self.path("sweeps/sweep/attempts")) {
            if path.file_name().unwrap() == "attempt.json" {
                let record = read_json(&path);
                let key = record["job"]["key"].as_str().unwrap().to_owned();
                found.entry(key).or_default().push(record);
            }
        }
        for of_job in found.values_mut() {
            of_job.sort_by(|one, other| {
                let began = |record: &Value| record["began"].as_f64().unwrap();
                began(one).total_cmp(&began(other))
            });
        }
        found
    }

    /// The states of all attempts, by key.
    pub fn states(&self) -> Vec<Vec<String>> {
        let state = |record: &Value| record["state"].as_str().unwrap().to_owned();
        let attempts = self.attempts();
        attempts
            .values()
            .map(|of_job| of_job.iter().map(state).collect())
            .collect()
    }

    /// How many jobs stand so.
    pub fn count(&self, standing: &str) -> usize {
        let outcome = self.sweep(&["status", "--json"]);
        let status: Value = serde_json::from_str(&outcome.stdout).unwrap();
        let jobs = status["jobs"].as_array().unwrap();
        jobs.iter()
            .filter(|job| job["standing"] == standing)
            .count()
    }

    /// Waits until `is` is true.
    #[track_caller]
    pub fn wait(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !is(self) {
            assert!(
                began.elapsed() < Duration::from_secs(100),
                "waited for {what}"
            );
            sleep(Duration::from_millis(20));
        }
    }

    /// Whether a job's processes generate: the two of its first variants at least.
    pub fn is_measuring(&self) -> bool {
        self.processes()
            .iter()
            .filter(|(_, words)| words.contains(&"worker".to_owned()))
            .count()
            >= 2
    }

    /// Processes whose working folder is this place, with their command lines.
    pub fn processes(&self) -> Vec<(i32, Vec<String>)> {
        let own = fs::canonicalize(self.folder.path()).unwrap();
        let ids = names(Path::new("/proc"))
            .into_iter()
            .filter_map(|name| name.parse().ok());
        let process = |id: i32| {
            let folder = fs::read_link(format!("/proc/{id}/cwd")).ok()?;
            let text = fs::read_to_string(format!("/proc/{id}/cmdline")).ok()?;
            let words = text.split('\0').map(str::to_owned).collect();
            (folder == own).then_some((id, words))
        };
        ids.filter_map(process).collect()
    }
}

pub fn kill(id: i32, signal: &str) {
    let status = Command::new("kill")
        .args([signal, &id.to_string()])
        .status();
    assert!(status.unwrap().success());
}

/// How a process ended that was started with [`Place::start`].
pub fn ended(mut child: Child) -> (Option<i32>, String) {
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_secs(100), "it goes on");
        sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}
