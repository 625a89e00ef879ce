//! Studies as a library runs them: plain settings, typed events, and results as values.

use std::path::PathBuf;

use peft_bench::report::Status;
use peft_bench::study::{Event, Observer, ProviderChoice, Settings, Study, StudyError};

use crate::common::*;
use crate::workplace::Workplace;

fn study(place: &Workplace, targets: &[PathBuf]) -> Study {
    Study {
        targets: targets.to_vec(),
        settings: Settings {
            model: Some(model("llama-gqa").display().to_string()),
            provider: ProviderChoice::Cpu,
            threads: Some(1),
            parameters: Some(place.path("config.json")),
            export_dir: place.path("exported_models"),
            ..Settings::default()
        },
        prompts: Some(place.path("prompts.json")),
        output: place.path("results"),
        worker: Some(PROGRAM.into()),
        ..Study::default()
    }
}

/// Counts what a study tells.
#[derive(Default)]
struct Counts {
    progress: usize,
    measured: Vec<usize>,
    failed: Vec<String>,
}

impl Observer for Counts {
    fn observe(&mut self, event: Event<'_>) {
        match event {
            Event::Progress(_) => self.progress += 1,
            Event::Measured { results } => self.measured.push(results.len()),
            Event::Failed { targets, .. } => self.failed.push(targets.to_owned()),
            _ => {}
        }
    }
}

#[test]
fn a_study_returns_what_it_writes_and_tells_how_it_goes() {
    let place = Workplace::new(1);
    let [lora, dora] = ["lora", "dora"].map(|name| case("llama-gqa", name));
    let mut counts = Counts::default();
    let results = study(&place, &[lora, dora]).run(&mut counts).unwrap();
    assert_eq!(counts.measured, [2], "they are measured together");
    assert!(counts.progress > 0 && counts.failed.is_empty());
    for (result, label) in results.iter().zip(["lora", "dora"]) {
        assert_eq!(result.label, label);
        assert_eq!(result.report.run_info.status, Status::Success);
        let written = peft_bench::report::read(&result.path).unwrap();
        assert_eq!(written.run_info.timestamp, result.report.run_info.timestamp);
        let variants = written.generation_info.all_measured();
        let names: Vec<&str> = variants.map(|(name, _)| name).collect();
        assert_eq!(names, ["base", "unmerged", "merged"]);
    }
    assert_eq!(results.len(), 2);
}

#[test]
fn an_error_says_which_targets_failed_and_why() {
    let place = Workplace::new(1);
    let (good, missing) = (case("llama-gqa", "lora"), place.path("missing"));
    let mut counts = Counts::default();
    let error = study(&place, &[good, missing.clone()]).run(&mut counts);
    let missing = missing.display().to_string();
    assert!(
        matches!(&error, Err(StudyError::Targets(names)) if *names == [missing.clone()]),
        "{error:?}"
    );
    assert_eq!((counts.failed, counts.measured), (vec![missing], vec![1]));

    let mut broken = study(&place, &[case("llama-gqa", "lora")]);
    broken.settings.parameters = Some(place.path("nowhere.json"));
    let error = broken.run(&mut ());
    assert!(
        matches!(&error, Err(StudyError::Parameters(_))),
        "{error:?}"
    );
}

#[test]
fn a_study_that_is_interrupted_writes_what_it_has() {
    let place = Workplace::new(1);
    let study = study(&place, &[case("llama-gqa", "lora")]);
    study.interrupt.raise();
    let error = study.run(&mut ());
    assert!(matches!(error, Err(StudyError::Interrupted)), "{error:?}");
    let result = place.result("failed/lora--lora");
    assert_eq!(result["run_info"]["status"], "cancelled");
}
