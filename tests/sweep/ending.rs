//! Jobs that fail, take too long, are killed or cancelled.

use std::fs;

use crate::common::*;
use crate::place::{Place, ended, kill};

/// A plan of which the first job fails: its base isn't finite, which only reading it tells.
fn with_a_failing_job() -> Place {
    let place = Place::new(2);
    copy_folder(&model("llama-gqa"), &place.path("broken"));
    let weights = place.path("broken/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[8 + header..].fill(0xff);
    fs::write(&weights, bytes).unwrap();
    place.planned("cases/lora", &["--models", "broken,models/llama-gqa"]);
    place
}

#[test]
fn a_job_whose_adapter_changed_since_it_was_planned_is_refused() {
    let place = Place::new(2);
    copy_folder(&case("llama-gqa", "lora"), &place.path("mine"));
    place.planned("mine", &["--models", "models/llama-gqa"]);
    let config = place.path("mine/adapter_config.json");
    let mut json = read_json(&config);
    json["lora_alpha"] = 3.into();
    fs::write(&config, json.to_string()).unwrap();
    let outcome = place.sweep(&["run"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(
        outcome
            .stderr
            .contains("its adapter changed since it was planned"),
        "{outcome:?}"
    );
    assert!(place.results().is_empty());
}

#[test]
fn a_failure_ends_the_run_unless_it_goes_on_and_is_tried_again_as_often_as_asked() {
    let place = with_a_failing_job();
    let outcome = place.sweep(&["run"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert_eq!(
        (place.states(), place.results().len()),
        (vec![vec!["failed".to_owned()]], 0)
    );
    assert!(
        outcome.stderr.contains("broken") && outcome.stderr.contains("log.txt"),
        "{outcome:?}"
    );

    let outcome = place.sweep(&["run", "--keep-going", "--retries", "2"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert_eq!(place.results().len(), 1);
    let mut attempts: Vec<usize> = place.states().iter().map(Vec::len).collect();
    attempts.sort_unstable();
    assert_eq!(attempts, [1, 4]);
    let status = place.sweep(&["status"]);
    assert_eq!(status.code, Some(1), "{status:?}");
    assert!(
        status.stdout.contains("1 failed") && status.stdout.contains("4 attempts"),
        "{status:?}"
    );
}

#[test]
fn a_job_that_takes_too_long_is_ended_and_has_failed() {
    let place = Place::new(1000);
    place.planned("cases/lora", &[]);
    let outcome = place.sweep(&["run", "--timeout", "2s"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("longer than 2s"), "{outcome:?}");
    assert_eq!(place.states(), [["timeout"]]);
    assert!(place.processes().is_empty());
}

#[test]
fn a_run_that_is_cancelled_from_elsewhere_ends_and_goes_on_later() {
    let place = Place::new(1000);
    place.planned("cases/lora", &[]);
    let child = place.start(&[]);
    place.wait("the job", Place::is_measuring);
    assert_eq!(place.count("running"), 1);
    assert_eq!(place.sweep(&["cancel"]).code, Some(0));
    let (code, stderr) = ended(child);
    assert_eq!(code, Some(130), "{stderr}");
    assert!(stderr.contains("peft-bench sweep run"), "{stderr}");
    assert_eq!(place.states(), [["cancelled"]]);
    assert_eq!((place.count("interrupted"), place.results().len()), (1, 0));
    let child = place.start(&[]);
    place.wait("the job", Place::is_measuring);
    kill(child.id() as i32, "-INT");
    assert_eq!(ended(child).0, Some(130));
    assert_eq!(place.states(), [["cancelled", "cancelled"]]);
}

#[test]
fn a_whole_tree_of_processes_that_is_ended_is_a_cancellation() {
    let place = Place::new(1000);
    place.planned("cases/lora", &[]);
    let child = place.start(&[]);
    place.wait("the job", Place::is_measuring);
    // The workers first: their ends are seen before the parents' own signals.
    let mut processes = place.processes();
    processes.sort_by_key(|(_, words)| !words.contains(&"worker".to_owned()));
    for (id, _) in processes {
        // One may have ended with its parent.
        let _ = std::process::Command::new("kill")
            .args(["-TERM", &id.to_string()])
            .status();
    }
    let (code, stderr) = ended(child);
    assert_eq!(code, Some(130), "{stderr}");
    assert_eq!(place.states(), [["cancelled"]]);
    let failed = files_below(&place.path("sweeps/sweep/attempts"));
    let failed: Vec<_> = failed
        .iter()
        .filter(|path| path.parent().unwrap().ends_with("failed"))
        .collect();
    assert_eq!(read_json(failed[0])["run_info"]["status"], "cancelled");
}

#[test]
fn results_that_cannot_be_written_end_the_run_before_anything_is_measured() {
    let place = Place::new(2);
    place.planned("cases/lora", &[]);
    fs::write(place.path("sweeps/sweep/results"), "no folder").unwrap();
    let outcome = place.sweep(&["run"]);
    assert_refused(&outcome, &["sweeps/sweep/results"]);
    assert!(place.states().is_empty());
}

#[test]
fn a_lock_outlives_a_killed_parent_and_is_free_when_the_processes_have_ended_that_measure() {
    let place = Place::new(1000);
    place.planned("cases/lora", &[]);
    let mut child = place.start(&["--cores", "0"]);
    place.wait("the job", Place::is_measuring);
    let locks = fs::canonicalize(place.path("locks")).unwrap();
    let [lock] = files_below(&locks).try_into().unwrap();
    let parent = child.id() as i32;
    for (id, words) in place.processes() {
        let open = fs::read_dir(format!("/proc/{id}/fd")).unwrap().flatten();
        let mut open = open.filter_map(|entry| fs::read_link(entry.path()).ok());
        assert!(open.any(|path| path == lock), "{words:?}");
    }
    let file = fs::File::open(&lock).unwrap();
    let is_held = || file.try_lock().is_err();
    kill(parent, "-KILL");
    while child.try_wait().unwrap().is_none() {}
    // The others are told to end, and take a moment. If the lock is free already, they have ended.
    let held = is_held();
    let left = place.processes();
    assert!(held || left.is_empty(), "the lock is free: {left:?}");
    place.wait("the lock", |_| !is_held());
    let left = place.processes();
    assert!(left.is_empty(), "{left:?}");
}
