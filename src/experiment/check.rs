//! Checks an experiment's folder before anything is prepared: names of files, keys of the
//! configuration, targets, and names and shapes of tensors. No weight is read.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::Experiment;
use crate::adapter::folder::{self, CONFIG, INDEX, WEIGHTS, names};
use crate::adapter::{
    Adapter, AdapterError, Prompt, ValuesFrom, expert_folders, options_inside, options_of,
    peft_type,
};
use crate::json::JsonObject;
use crate::json::check::{nearest, nearest_three};
use crate::model::BaseModel;

/// The file of benchmark parameters in an experiment's folder.
pub const PARAMS: &str = "benchmark_params.json";

/// The files of an experiment that are read by their names.
const READ: [&str; 4] = [CONFIG, WEIGHTS, INDEX, PARAMS];

/// How similar a file's name must be to one of [`READ`] to be a misspelling of it.
const MISSPELT: f64 = 0.85;

/// What was found in a folder without looking at a base.
#[derive(Debug, Default)]
pub struct Findings {
    /// The adapter's method, if it's supported.
    pub method: Option<&'static str>,
    /// What must be mended.
    pub faults: Vec<String>,
    /// What is ignored when the adapter is used.
    pub notes: Vec<String>,
}

/// An adapter that fits its base.
#[derive(Debug)]
pub struct Fit {
    /// Adapted modules.
    pub modules: usize,
    /// Trainable parameters, as PEFT counts them.
    pub trainable_params: usize,
    /// Notes about how the adapter is loaded.
    pub notes: Vec<String>,
    /// Why it can't be merged; `None` if it can.
    pub merge_refusal: Option<String>,
    /// Whether it fills the cache before the prompt, as prefix tuning does.
    pub has_prefix: bool,
}

/// Every folder below `experiments` that is or should be an experiment: it has an
/// `adapter_config.json`, or no folders below it.
pub fn experiments_below(experiments: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let below = names(experiments).into_iter();
    for folder in below.map(|name| experiments.join(name)) {
        if !folder.is_dir() {
            continue;
        }
        let inside = experiments_below(&folder);
        match folder.join(CONFIG).exists() || inside.is_empty() {
            true => found.push(folder),
            false => found.extend(inside),
        }
    }
    found
}

/// Checks names of files, and keys of the configurations of the adapter in `folder` and of its
/// experts. In a trained adapter, a key that PEFT doesn't have is only a note, unless it's a
/// misspelling: other programs add keys of their own.
pub fn look_at(folder: &Path, values: ValuesFrom) -> Findings {
    let mut found = Findings::default();
    for folder in [folder.to_owned()]
        .into_iter()
        .chain(expert_folders(folder))
    {
        misspelt_files(&folder, &mut found.faults);
        // A configuration that can't be read is a fault of `Experiment::at`.
        if let Ok(config) = JsonObject::read(&folder.join(CONFIG)) {
            let trained = values != ValuesFrom::Fresh && folder::has_weights(&folder);
            match peft_type(&config) {
                Ok(method) => {
                    found.method = found.method.or(Some(method));
                    unknown_keys(&config, method, trained, &mut found);
                }
                Err(error) => found.faults.push(error.to_string()),
            }
        }
    }
    found
}

fn misspelt_files(folder: &Path, faults: &mut Vec<String>) {
    let files = names(folder);
    for name in &files {
        let absent = READ
            .iter()
            .filter(|read| !files.iter().any(|file| file == *read));
        let similar = |read: &&&str| {
            let lower = name.to_lowercase();
            strsim::normalized_levenshtein(&lower, read) > MISSPELT
        };
        if READ.contains(&name.as_str()) {
            continue;
        }
        if let Some(meant) = absent.clone().find(similar) {
            faults.push(format!(
                "`{}` is not read (did you mean `{meant}`?)",
                folder.join(name).display()
            ));
        }
    }
}

fn unknown_keys(config: &JsonObject, method: &str, trained: bool, found: &mut Findings) {
    let (Some(options), Some(keys)) = (options_of(method), config.json().as_object()) else {
        return;
    };
    let known: Vec<&str> = options.keys().map(String::as_str).collect();
    report_unknown(method, "", keys, &known, trained, found);
    for (name, value) in keys {
        if let (Some(inside), Value::Object(keys)) = (options_inside(name), value) {
            let known: Vec<&str> = inside.iter().map(String::as_str).collect();
            report_unknown(method, &format!("{name}."), keys, &known, trained, found);
        }
    }
}

fn report_unknown(
    method: &str,
    scope: &str,
    keys: &Map<String, Value>,
    known: &[&str],
    trained: bool,
    found: &mut Findings,
) {
    let is_unknown = |key: &&String| !key.starts_with('_') && !known.contains(&key.as_str());
    for key in keys.keys().filter(is_unknown) {
        let what = format!("{method} has no option `{scope}{key}`");
        match nearest(key, known).filter(|meant| !keys.contains_key(meant)) {
            Some(meant) => found
                .faults
                .push(format!("{what} (did you mean `{meant}`?)")),
            None if trained => found.notes.push(format!("{what}, which is ignored")),
            None => found.faults.push(format!(
                "{what}; its nearest are {}",
                nearest_three(key, known)
            )),
        }
    }
}

/// Checks the targets of `experiment` and its tensors' names and shapes against `base`, of which
/// only the architecture is read.
///
/// # Errors
/// If it doesn't fit.
pub fn fit(
    experiment: &Experiment,
    base: &BaseModel,
    task_id: Option<usize>,
) -> Result<Fit, AdapterError> {
    let Experiment { folder, values, .. } = experiment;
    let adapter = Adapter::without_base_weights(folder, base, *values, task_id)?;
    Ok(Fit {
        modules: adapter.modules().count(),
        trainable_params: adapter.trainable_params(),
        notes: adapter.notes().to_vec(),
        merge_refusal: adapter.merge_refusal(),
        has_prefix: matches!(adapter.prompt(), Some(Prompt::Prefix(_))),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    fn findings(config: Value, files: &[&str]) -> Findings {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(CONFIG), config.to_string()).unwrap();
        for file in files {
            fs::write(folder.path().join(file), "").unwrap();
        }
        look_at(folder.path(), ValuesFrom::AsFound)
    }

    #[test]
    fn an_unknown_key_is_a_fault_and_names_the_one_that_was_meant() {
        let config =
            json!({"peft_type": "LORA", "lora_alhpa": 8, "_why": 1, "kasa_config": {"betta": 1}});
        let found = findings(config, &[]).faults;
        assert_eq!(
            found,
            [
                "LORA has no option `lora_alhpa` (did you mean `lora_alpha`?)",
                "LORA has no option `kasa_config.betta` (did you mean `beta`?)"
            ]
        );
        let found = findings(json!({"peft_type": "IA3", "r": 8}), &[]).faults;
        assert!(found[0].starts_with("IA3 has no option `r`"), "{found:?}");
    }

    #[test]
    fn another_programs_key_in_a_trained_adapter_is_a_note() {
        let config = json!({"peft_type": "LORA", "zz_trainer": 8});
        let found = findings(config.clone(), &[WEIGHTS]);
        assert!(
            found.faults.is_empty() && found.notes.len() == 1,
            "{found:?}"
        );
        assert_eq!(findings(config, &[]).faults.len(), 1);
        let misspelt = json!({"peft_type": "LORA", "lora_alhpa": 8});
        assert_eq!(findings(misspelt, &[WEIGHTS]).faults.len(), 1);
    }

    #[test]
    fn a_misspelt_file_is_a_fault() {
        let config = json!({"peft_type": "LORA"});
        let found = findings(config.clone(), &["benchmark_param.json", "README.md"]).faults;
        assert!(
            found[0].ends_with("(did you mean `benchmark_params.json`?)"),
            "{found:?}"
        );
        let found = findings(config.clone(), &["adapter-model.safetensors"]).faults;
        assert_eq!(found.len(), 1, "{found:?}");
        // The file that's read is there.
        let found = findings(config, &["adapter_config2.json"]).faults;
        assert!(found.is_empty(), "{found:?}");
    }
}
