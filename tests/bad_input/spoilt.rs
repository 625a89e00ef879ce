//! What most tests spoil: an intact base model and experiment.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::SystemTime;

use serde_json::Value;
use tempfile::TempDir;

use crate::common::{
    Outcome, all_below, assert_refused, case, copy_folder, limited, make_fresh, model, run, set_key,
};

/// An intact, prepared copy of a base model and an experiment, which a test spoils.
pub struct Spoilt {
    pub root: TempDir,
    /// The base model's folder.
    pub base: PathBuf,
    /// The experiment's folder.
    pub experiment: PathBuf,
    pub exported: PathBuf,
    /// The prepared files, with their modification times.
    pub before: Vec<(PathBuf, Option<SystemTime>)>,
}

impl Spoilt {
    pub fn new(model_name: &str, case_name: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut trial = Self {
            base: copy_folder(&model(model_name), &root.path().join("base-model")),
            experiment: copy_folder(&case(model_name, case_name), &root.path().join("trial")),
            exported: root.path().join("exported"),
            before: Vec::new(),
            root,
        };
        let outcome = trial.prepare(&[]);
        assert_eq!(outcome.code, Some(0), "before it is spoiled: {outcome:?}");
        trial.before = trial.stamps();
        assert!(trial.before.len() >= 5, "{:?}", trial.before);
        trial
    }

    /// A trial with a fresh adapter, drawn according to `config`.
    pub fn fresh(model_name: &str, config: Value) -> Self {
        let trial = Self::new(model_name, "lora");
        make_fresh(&trial.experiment);
        fs::write(trial.adapter_config(), config.to_string()).unwrap();
        trial
    }

    pub fn adapter_config(&self) -> PathBuf {
        self.experiment.join("adapter_config.json")
    }

    pub fn weights(&self) -> PathBuf {
        self.experiment.join("adapter_model.safetensors")
    }

    pub fn base_config(&self) -> PathBuf {
        self.base.join("config.json")
    }

    pub fn base_weights(&self) -> PathBuf {
        self.base.join("model.safetensors")
    }

    /// Sets a key of `adapter_config.json`.
    pub fn set(&self, key: &str, value: Value) -> &Self {
        set_key(&self.adapter_config(), key, value);
        self
    }

    /// Everything in the folder of prepared variants, files with their modification times.
    pub fn stamps(&self) -> Vec<(PathBuf, Option<SystemTime>)> {
        let stamp = |path: PathBuf| {
            let metadata = fs::metadata(&path).unwrap();
            let modified = metadata.is_file().then(|| metadata.modified().unwrap());
            (path, modified)
        };
        all_below(&self.exported).into_iter().map(stamp).collect()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = limited(args);
        command.args(["--ep", "cpu"]);
        command.arg("--export-dir").arg(&self.exported);
        command
    }

    /// Runs `prepare`, for all variants unless `options` say otherwise.
    pub fn prepare(&self, options: &[&str]) -> Outcome {
        let mut command = self.command(&["prepare"]);
        run(command
            .arg(&self.experiment)
            .args(options)
            .arg("--model")
            .arg(&self.base))
    }

    /// Runs `generate` on the experiment.
    pub fn generate(&self, options: &[&str]) -> Outcome {
        let mut command = self.command(&["generate", "--threads", "1"]);
        run(command
            .arg(&self.experiment)
            .args(options)
            .arg("--model")
            .arg(&self.base))
    }

    /// Runs `generate` on the base alone.
    pub fn generate_base(&self) -> Outcome {
        let mut command = self.command(&["generate", "--threads", "1", "--prompt-ids", "1,2"]);
        run(command.arg(&self.base))
    }

    /// Checks that a run was refused, that the message contains `words`, and that nothing was
    /// changed.
    #[track_caller]
    pub fn refused(&self, outcome: &Outcome, words: &[&str]) {
        assert_refused(outcome, words);
        assert_eq!(self.stamps(), self.before, "after {outcome:?}");
    }

    /// Checks that the adapter is refused in either variant.
    #[track_caller]
    pub fn adapter_refused(&self, words: &[&str]) {
        for variant in ["unmerged", "merged"] {
            self.refused(&self.prepare(&["--variant", variant]), words);
        }
    }

    /// Checks that the base is refused, both alone and with an adapter.
    #[track_caller]
    pub fn base_refused(&self, words: &[&str]) {
        self.refused(&self.generate_base(), words);
        self.refused(&self.prepare(&[]), words);
    }
}
