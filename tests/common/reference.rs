//! The cases of `tests/fixtures/cases`, and running the program with the same inputs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use peft_bench::weights::Dtype;
use serde::Deserialize;
use tempfile::TempDir;

use super::{
    TOLERANCE, Tensor, Tensors, case, model, names, program, read_json, read_tensors,
    relative_difference, run, write_tensors,
};

/// The content of `case.json`.
#[derive(Debug, Deserialize)]
pub struct Case {
    pub prompt_ids: Vec<u32>,
    pub max_new_tokens: usize,
    pub token_ids: Vec<u32>,
    #[serde(default)]
    pub merged: bool,
    pub trainable_params: Option<u64>,
    pub total_params: Option<u64>,
    pub task_id: Option<u32>,
}

impl Case {
    pub fn read(folder: &Path) -> Self {
        serde_json::from_value(read_json(&folder.join("case.json"))).unwrap()
    }

    /// `generate` with the case's prompt, without options for the target.
    pub fn generate(&self, target: &Path, variant: &str, export_dir: &Path) -> Command {
        let mut command = program(["generate", "--ep", "cpu", "--threads", "1", "--json"]);
        command.arg(target).args([
            "--variant",
            variant,
            "--prompt-ids",
            &join(&self.prompt_ids),
        ]);
        command.args(["--max-new-tokens", &self.max_new_tokens.to_string()]);
        command.arg("--export-dir").arg(export_dir);
        if let Some(task) = self.task_id.filter(|_| variant != "base") {
            command.args(["--task-id", &task.to_string()]);
        }
        command
    }
}

pub fn join(ids: &[u32]) -> String {
    let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
    ids.join(",")
}

/// The output of `generate --json --logits`.
#[derive(Debug, PartialEq)]
pub struct Generated {
    pub prompt_ids: Vec<u32>,
    pub token_ids: Vec<u32>,
    pub text: Option<String>,
    pub logits: Tensor,
}

/// Runs a `generate` command; returns its error message if it fails.
pub fn try_generate(command: &mut Command) -> Result<Generated, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("logits.safetensors");
    let outcome = run(command.arg("--logits").arg(&path));
    if outcome.code != Some(0) {
        return Err(format!(
            "exit code {:?}: {}",
            outcome.code,
            outcome.stderr.trim()
        ));
    }
    #[derive(Deserialize)]
    struct Printed {
        prompt_ids: Vec<u32>,
        token_ids: Vec<u32>,
        text: Option<String>,
    }
    let printed: Printed = serde_json::from_str(&outcome.stdout)
        .map_err(|error| format!("stdout is `{}`: {error}", outcome.stdout))?;
    Ok(Generated {
        prompt_ids: printed.prompt_ids,
        token_ids: printed.token_ids,
        text: printed.text,
        logits: read_tensors(&path)
            .remove("logits")
            .ok_or("no tensor `logits`")?,
    })
}

#[track_caller]
pub fn generate(command: &mut Command) -> Generated {
    try_generate(command).unwrap_or_else(|message| panic!("{command:?}: {message}"))
}

/// Compares a run with the reference.
pub fn check_variant(
    case: &Case,
    folder: &Path,
    variant: &str,
    command: &mut Command,
) -> Result<(), String> {
    let generated = try_generate(command)?;
    let expected = read_tensors(&folder.join("expected.safetensors"));
    let expected = expected
        .get(variant)
        .ok_or("the case expects no such variant")?;
    if generated.logits.shape != expected.shape {
        return Err(format!(
            "shape {:?}, not {:?}",
            generated.logits.shape, expected.shape
        ));
    }
    let difference = relative_difference(&generated.logits.values, &expected.values);
    if difference > TOLERANCE {
        return Err(format!("logits are off by {difference:e} of the largest"));
    }
    if generated.token_ids != case.token_ids {
        return Err(format!(
            "tokens {:?}, not {:?}",
            generated.token_ids, case.token_ids
        ));
    }
    if generated.prompt_ids != case.prompt_ids {
        return Err(format!(
            "prompt {:?}, not {:?}",
            generated.prompt_ids, case.prompt_ids
        ));
    }
    Ok(())
}

/// The only prepared `<export_dir>/<model>/<experiment>`.
pub fn prepared_folder(export_dir: &Path) -> PathBuf {
    let models = names(export_dir);
    assert_eq!(models.len(), 1, "{models:?}");
    let folder = export_dir.join(&models[0]);
    let experiments: Vec<_> = names(&folder)
        .into_iter()
        .filter(|name| name != "base" && folder.join(name).is_dir())
        .collect();
    assert_eq!(experiments.len(), 1, "{experiments:?}");
    folder.join(&experiments[0])
}

pub fn check_counts(case: &Case, export_dir: &Path, variant: &str) -> Result<(), String> {
    let manifest = read_json(
        &prepared_folder(export_dir)
            .join(variant)
            .join("manifest.json"),
    );
    let count = |key: &str| manifest["adapter"][key].as_u64();
    for (key, expected) in [
        ("trainable_params", case.trainable_params),
        ("total_params", case.total_params),
    ] {
        if expected.is_none() || count(key) != expected {
            return Err(format!("`{key}` is {:?}, not {expected:?}", count(key)));
        }
    }
    Ok(())
}

/// The method of an experiment.
pub fn peft_type(folder: &Path) -> String {
    let config = read_json(&folder.join("adapter_config.json"));
    config["peft_type"].as_str().unwrap().to_owned()
}

/// A case with an export folder of its own.
pub struct Bench {
    pub case: Case,
    pub folder: PathBuf,
    pub model: PathBuf,
    pub exported: TempDir,
}

impl Bench {
    pub fn new(model_name: &str, case_name: &str) -> Self {
        let folder = case(model_name, case_name);
        Self {
            case: Case::read(&folder),
            folder,
            model: model(model_name),
            exported: tempfile::tempdir().unwrap(),
        }
    }

    /// `generate` on a variant, with more options.
    #[track_caller]
    pub fn generate(&self, variant: &str, options: &[&str]) -> Generated {
        let mut command = self
            .case
            .generate(&self.folder, variant, self.exported.path());
        generate(command.arg("--model").arg(&self.model).args(options))
    }

    /// `generate` on a prepared folder.
    #[track_caller]
    pub fn generate_prepared(&self, folder: &Path, variant: &str) -> Generated {
        let elsewhere = tempfile::tempdir().unwrap();
        let generated = generate(&mut self.case.generate(folder, variant, elsewhere.path()));
        assert!(
            names(elsewhere.path()).is_empty(),
            "nothing is prepared again"
        );
        generated
    }

    /// Runs `prepare`; returns its output.
    #[track_caller]
    pub fn prepare(&self) -> String {
        let mut command = program(["prepare", "--ep", "cpu"]);
        command.arg(&self.folder).arg("--model").arg(&self.model);
        let outcome = run(command.arg("--export-dir").arg(self.exported.path()));
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        outcome.stderr
    }

    /// A copy of the model with all tensors rounded to `dtype` and stored in it.
    pub fn rounded_model(&self, tensors: &Tensors, dtype: Dtype) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::copy(
            self.model.join("config.json"),
            folder.path().join("config.json"),
        )
        .unwrap();
        write_tensors(&folder.path().join("model.safetensors"), tensors, dtype);
        folder
    }
}

#[track_caller]
pub fn assert_close(actual: &Generated, expected: &Generated) {
    let difference = relative_difference(&actual.logits.values, &expected.logits.values);
    assert!(difference <= TOLERANCE, "off by {difference:e}");
    assert_eq!(actual.token_ids, expected.token_ids);
}

#[track_caller]
pub fn assert_apart(actual: &Generated, expected: &Generated) {
    let first =
        |generated: &Generated| generated.logits.values[..generated.logits.shape[1]].to_vec();
    let difference = relative_difference(&first(actual), &first(expected));
    assert!(difference > TOLERANCE, "off by {difference:e} only");
}
