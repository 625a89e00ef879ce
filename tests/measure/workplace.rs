//! A temporary working folder for measurements.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::common::{Outcome, called, case, names, only, program, read_json, run, with_short_runs};

/// A working folder with short prompts and few runs, for the fixture model with a tokenizer.
pub struct Workplace {
    pub folder: TempDir,
}

impl Workplace {
    pub fn new(runs: usize) -> Self {
        let folder = with_short_runs(runs);
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program(arguments);
        command.current_dir(self.folder.path()).args([
            "--config",
            "config.json",
            "--ep",
            "cpu",
            "--threads",
            "1",
        ]);
        command
    }

    pub fn measure(&self, target: &Path, more: &[&str]) -> Outcome {
        let target = target.to_str().unwrap();
        let mut arguments = vec!["measure", target, "--prompts", "prompts.json"];
        arguments.extend(more);
        run(&mut self.command(&arguments))
    }

    pub fn measure_all(&self, targets: &[&Path], more: &[&str]) -> Outcome {
        let targets = targets.iter().map(|target| target.to_str().unwrap());
        let mut arguments = vec!["measure"];
        arguments.extend(targets);
        arguments.extend(["--prompts", "prompts.json"]);
        arguments.extend(more);
        run(&mut self.command(&arguments))
    }

    /// The result file that a measurement prints.
    #[track_caller]
    pub fn written(&self, outcome: &Outcome) -> PathBuf {
        let mut lines = outcome.stdout.lines();
        let line = lines.find_map(|line| line.strip_prefix("result  "));
        self.path(line.unwrap_or_else(|| panic!("{outcome:?}")))
    }

    /// The result files below `results` whose names begin with `stem`.
    pub fn results(&self, stem: &str) -> Vec<PathBuf> {
        called(&self.path("results").join(stem))
    }

    /// The only result file whose name begins with `stem`.
    #[track_caller]
    pub fn result(&self, stem: &str) -> Value {
        read_json(&only(&self.path("results").join(stem)))
    }

    /// Starts a very long measurement, and waits until its workers generate.
    #[expect(clippy::zombie_processes, reason = "the caller waits for it")]
    pub fn start_long(&self) -> (std::process::Child, Vec<i32>) {
        let target = case("llama-gqa", "lora");
        let arguments = [
            "measure",
            target.to_str().unwrap(),
            "--prompts",
            "prompts.json",
        ];
        let child = self
            .command(&arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let started = Instant::now();
        loop {
            let workers = workers_of(child.id());
            if workers.len() == 3 {
                // Before the last worker has its session, killing one would be a failure to open.
                sleep(Duration::from_millis(500));
                return (child, workers);
            }
            assert!(started.elapsed() < Duration::from_secs(60), "no workers");
            sleep(Duration::from_millis(5));
        }
    }
}

/// Process ids of the children of `parent`, in the order of their start.
fn workers_of(parent: u32) -> Vec<i32> {
    let mut found: Vec<i32> = names(Path::new("/proc"))
        .iter()
        .filter_map(|name| name.parse().ok())
        .filter(|id: &i32| {
            let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            let fields = stat.rsplit(')').next().unwrap_or_default();
            fields.split_whitespace().nth(1) == Some(parent.to_string().as_str())
        })
        .collect();
    found.sort_unstable();
    found
}

pub fn kill(id: i32, signal: &str) {
    let status = Command::new("kill")
        .args([signal, &id.to_string()])
        .status();
    assert!(status.unwrap().success());
}

pub fn ended(mut child: std::process::Child) -> (Option<i32>, String) {
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(started.elapsed() < Duration::from_secs(60), "it goes on");
        sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}
