//! Parameter counts of the shipped experiments on models of real sizes, against PEFT's own.
//!
//! `tests/fixtures/parameter_counts.json` was recorded by the script next to it. Neither reads or
//! makes a weight of these models.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::*;
use crate::model::synthetic::make_hollow;

/// PEFT's counts of one experiment on one shape, or why it has none.
#[derive(Debug, Deserialize)]
struct Recorded {
    trainable_params: Option<usize>,
    total_params: Option<usize>,
    reason: Option<String>,
}

fn recorded() -> BTreeMap<String, BTreeMap<String, Recorded>> {
    serde_json::from_str(include_str!("../../tests/fixtures/parameter_counts.json")).unwrap()
}

/// A mixture of experts; its counts are recorded for LoRA alone.
const MIXTURE: &str = "olmoe-1b-7b";

/// The folder of experiments whose counts PEFT published; `tests/report/metamathqa.rs` compares them.
const PUBLISHED: &str = "metamathqa";

/// `<method>/<name>` of each other shipped experiment.
fn shipped() -> Vec<String> {
    let names = |folder: &Path| -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments");
    let methods = names(&root).into_iter();
    let methods = methods.filter(|method| method != PUBLISHED);
    let experiments = methods.flat_map(|method| {
        let experiments = names(&root.join(&method)).into_iter();
        let labels: Vec<_> = experiments.map(|name| format!("{method}/{name}")).collect();
        labels
    });
    let mut all: Vec<String> = experiments.collect();
    all.sort();
    all
}

/// The number of compared experiments, and a message for each whose counts differ.
fn check(shape: &str) -> (usize, Vec<String>) {
    let recorded = &recorded()[shape];
    let folder = tempfile::tempdir().unwrap();
    make_hollow(shape, folder.path()).unwrap();
    let base = BaseModel::open_folder(folder.path()).unwrap();
    let size = base.size().unwrap().parameters;
    let (mut compared, mut differences) = (0, Vec::new());
    for label in shipped() {
        let experiment = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("experiments")
            .join(&label);
        let Some(expected) = recorded.get(&label) else {
            continue;
        };
        let found = Adapter::without_values(&experiment, &base)
            .map(|adapter| (adapter.trainable_params(), size + adapter.added_params()));
        match (found, expected.trainable_params.zip(expected.total_params)) {
            (Ok(found), Some(expected)) if found == expected => compared += 1,
            (Ok(found), Some(expected)) => {
                differences.push(format!("{label}: {found:?}, PEFT has {expected:?}"));
            }
            (Err(error), Some(_)) => differences.push(format!("{label}: {error}")),
            // An experiment that PEFT can't load may be refused here.
            (Err(_), None) => {}
            (Ok(found), None) => {
                let reason = expected.reason.as_deref().unwrap_or_default();
                differences.push(format!("{label}: {found:?}, PEFT fails: {reason}"));
            }
        }
    }
    (compared, differences)
}

#[test]
fn counts_on_llama_3b_are_peft_s() {
    let (compared, differences) = check("llama-3.2-3b");
    assert!(differences.is_empty(), "{differences:#?}");
    assert!(compared > 40, "{compared}");
}

#[test]
fn counts_on_opt_350m_are_peft_s() {
    let (compared, differences) = check("opt-350m");
    assert!(differences.is_empty(), "{differences:#?}");
    assert!(compared > 40, "{compared}");
}

#[test]
fn counts_of_lora_on_olmoe_are_peft_s() {
    let (compared, differences) = check(MIXTURE);
    assert!(differences.is_empty(), "{differences:#?}");
    assert!(compared > 8, "{compared}");
}

#[test]
fn every_recorded_experiment_is_shipped_and_the_reverse() {
    for (shape, recorded) in recorded() {
        let labels: Vec<String> = recorded.into_keys().collect();
        let mut expected = shipped();
        if shape == MIXTURE {
            expected.retain(|label| label.starts_with("lora/"));
        }
        assert_eq!(labels, expected, "{shape}");
    }
}
