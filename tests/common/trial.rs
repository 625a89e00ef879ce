//! A copy of a case that a test may modify.

use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;

use super::{
    Outcome, assert_refused, case, copy_folder, limited, make_fresh, model, names, read_json,
    read_tensors, run, set_key,
};

/// A prompt.
pub const PROMPT: [&str; 2] = ["--prompt-ids", "3,1,4,1,5,9"];

/// The files of an adapter.
pub const CONFIG: &str = "adapter_config.json";
pub const WEIGHTS: &str = "adapter_model.safetensors";

/// An experiment that a test may modify, and a folder for prepared variants.
pub struct Trial {
    pub root: TempDir,
    pub model: PathBuf,
    pub experiment: PathBuf,
}

impl Trial {
    pub fn new(model_name: &str, case_name: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        Self {
            model: model(model_name),
            experiment: copy_folder(&case(model_name, case_name), &root.path().join("trial")),
            root,
        }
    }

    /// Like [`new`](Self::new), with a copy of the model that may be modified too.
    pub fn with_own_model(model_name: &str, case_name: &str) -> Self {
        let mut trial = Self::new(model_name, case_name);
        trial.model = copy_folder(&trial.model, &trial.root.path().join("base-model"));
        trial
    }

    /// Like [`new`](Self::new), with a fresh adapter.
    pub fn fresh(model_name: &str, case_name: &str) -> Self {
        let trial = Self::new(model_name, case_name);
        make_fresh(&trial.experiment);
        trial
    }

    pub fn weights(&self) -> PathBuf {
        self.experiment.join(WEIGHTS)
    }

    /// A file of `expert`, one of the adapters that this one mixes.
    pub fn file(&self, expert: &str, name: &str) -> PathBuf {
        self.experiment.join(expert).join(name)
    }

    pub fn set(&self, key: &str, value: Value) -> &Self {
        set_key(&self.experiment.join(CONFIG), key, value);
        self
    }

    /// Sets a key of `arrow_config`.
    pub fn set_arrow(&self, key: &str, value: Value) {
        let mut arrow = read_json(&self.experiment.join(CONFIG))["arrow_config"].clone();
        arrow[key] = value;
        self.set("arrow_config", arrow);
    }

    pub fn run(&self, command: &str, options: &[&str]) -> Outcome {
        let mut command = limited([command, "--ep", "cpu", "--threads", "1"]);
        command.arg(&self.experiment).args(options);
        command.arg("--model").arg(&self.model);
        run(command
            .arg("--export-dir")
            .arg(self.root.path().join("exported")))
    }

    /// The logits of `generate`.
    #[track_caller]
    pub fn logits(&self, options: &[&str]) -> Vec<f32> {
        let file = self.root.path().join("logits.safetensors");
        let path = file.to_str().unwrap();
        let mut all = vec!["--max-new-tokens", "4", "--logits", path];
        all.extend(options);
        let outcome = self.run("generate", &all);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        read_tensors(&file).remove("logits").unwrap().values
    }

    /// The logits of a variant, for a prompt that contains the adapter's invocation tokens, if it
    /// has any.
    #[track_caller]
    pub fn logits_of(&self, variant: &str) -> Vec<f32> {
        let prompt = ["--prompt-ids", "3,1,4,1,5,9,31,2,6", "--variant", variant];
        self.logits(&prompt)
    }

    /// The manifest of a prepared variant.
    pub fn manifest(&self, variant: &str) -> Value {
        read_json(&self.prepared(variant).join("manifest.json"))
    }

    /// The folder of a prepared variant.
    pub fn prepared(&self, variant: &str) -> PathBuf {
        let model = &names(&self.root.path().join("exported"))[0];
        let model = self.root.path().join("exported").join(model);
        let mut experiments = names(&model);
        experiments.retain(|name| name != "base" && model.join(name).is_dir());
        model.join(&experiments[0]).join(variant)
    }

    #[track_caller]
    pub fn refused(&self, options: &[&str], words: &[&str]) {
        for variant in ["unmerged", "merged"] {
            let mut all = vec!["--variant", variant];
            all.extend(options);
            assert_refused(&self.run("prepare", &all), words);
        }
    }
}
