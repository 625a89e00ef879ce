//! `sweep run`: what's measured, how often, and what comes of it.

use std::collections::BTreeSet;
use std::fs;

use crate::common::*;
use crate::place::{Place, ended, kill};

#[test]
fn every_job_has_a_result_of_its_own_and_a_second_run_measures_nothing() {
    let place = Place::new(2);
    place.planned(
        "cases/lora,cases/prefix-tuning",
        &["--dtypes", "float32,bfloat16"],
    );
    let outcome = place.sweep(&["run"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stderr.contains("[4/4]"), "{outcome:?}");
    assert!(
        outcome.stdout.contains("cores-") || outcome.stdout.contains("-cores"),
        "{outcome:?}"
    );
    let results = place.results();
    assert_eq!(results.len(), 4, "{results:?}");
    let hardware: BTreeSet<_> = results.iter().map(|path| path.parent().unwrap()).collect();
    assert_eq!(hardware.len(), 1);
    assert_eq!(place.states(), vec![vec!["done"]; 4]);

    let again = place.sweep(&["run"]);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.stderr.contains("0 measured now"), "{again:?}");
    assert_eq!(place.states(), vec![vec!["done"]; 4]);
    let status = place.sweep(&["status"]);
    assert_eq!(
        (status.code, status.stdout.as_str()),
        (Some(0), "4 of 4 jobs done\n")
    );
    let rows = place.sweep(&[
        "report",
        "--format",
        "csv",
        "--columns",
        "experiment,dtype,variant",
    ]);
    assert_eq!(rows.stdout.lines().count(), 1 + 2 * (3 + 2), "{rows:?}");
}

#[test]
fn a_killed_run_goes_on_where_it_was_and_nothing_else_is_measured_twice() {
    let place = Place::new(40);
    place.planned("cases/lora", &["--batch-sizes", "1,2,3"]);
    let child = place.start(&[]);
    // Between the second attempt's begin and the end of the third, which are seconds apart.
    place.wait("the second job", |place| place.states().len() >= 2);
    kill(child.id() as i32, "-KILL");
    ended(child);
    place.wait("the end of all processes", |place| {
        place.processes().is_empty()
    });
    let interrupted = place.count("interrupted");
    assert_eq!(interrupted, 1, "{:?}", place.states());
    assert!((1..3).contains(&place.results().len()));
    let outcome = place.sweep(&["run"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let mut attempts: Vec<usize> = place.states().iter().map(Vec::len).collect();
    attempts.sort_unstable();
    assert_eq!(attempts, [1, 1, 2]);
    assert_eq!(place.results().len(), 3);
}

#[test]
fn what_was_measured_to_the_end_and_not_published_is_published() {
    let place = Place::new(2);
    place.planned("cases/lora", &[]);
    assert_eq!(place.sweep(&["run"]).code, Some(0));
    fs::remove_dir_all(place.path("sweeps/sweep/results")).unwrap();
    let outcome = place.sweep(&["run"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stderr.contains("an earlier attempt"), "{outcome:?}");
    assert_eq!((place.results().len(), place.states().len()), (1, 1));
}

#[test]
fn shards_divide_the_jobs_and_wait_for_each_others_cores() {
    let place = Place::new(2);
    place.planned("cases/lora,cases/dora", &["--batch-sizes", "1,2"]);
    let shards = ["0/3", "1/3", "2/3"].map(|shard| place.start(&["--shard", shard]));
    for shard in shards {
        let (code, stderr) = ended(shard);
        assert_eq!(code, Some(0), "{stderr}");
    }
    assert_eq!(place.states(), vec![vec!["done"]; 4]);
    let attempts = place.attempts();
    let mut times: Vec<[f64; 2]> = attempts
        .values()
        .flatten()
        .map(|record| {
            [
                record["began"].as_f64().unwrap(),
                record["seconds"].as_f64().unwrap(),
            ]
        })
        .collect();
    times.sort_by(|one, other| one[0].total_cmp(&other[0]));
    for pair in times.windows(2) {
        let end = pair[0][0] + pair[0][1];
        assert!(
            end < pair[1][0] + 0.2,
            "two jobs were timed at once: {times:?}"
        );
    }
}

#[test]
fn a_task_takes_its_number_from_the_engine() {
    let place = Place::new(2);
    place.planned("cases/lora", &["--batch-sizes", "1,2"]);
    let task = |number: &str| {
        let mut command = place.command(&["run", "--index", "auto"]);
        run(command.env("SLURM_ARRAY_TASK_ID", number))
    };
    let outcome = task("1");
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(place.results().len(), 1);
    assert!(
        place.results()[0].to_string_lossy().contains("batch-2"),
        "{:?}",
        place.results()
    );
    assert_refused(&task("2"), &["no job 2", "2 jobs"]);
    let mut two = place.command(&["run", "--index", "auto"]);
    two.envs([("SLURM_ARRAY_TASK_ID", "0"), ("HQ_TASK_ID", "1")]);
    assert_refused(&run(&mut two), &["SLURM_ARRAY_TASK_ID", "HQ_TASK_ID"]);
    assert_refused(&place.sweep(&["run", "--index", "auto"]), &["auto"]);
    let other = place.sweep(&["run", "--index", "0", "--plan", "0123456789ab"]);
    assert_refused(&other, &["0123456789ab", "sweep submit"]);
}

#[test]
fn a_task_finds_its_job_whether_the_plan_has_an_index_or_one_of_another_plan() {
    let place = Place::new(2);
    place.planned("cases/lora", &["--batch-sizes", "1,2"]);
    let [plan, index] =
        ["jsonl", "index"].map(|ending| place.path("sweeps/sweep/plan").with_extension(ending));
    let older = fs::read(&index).unwrap();
    let line = |plan: &str| plan.lines().nth(2).unwrap().to_owned();
    let second = line(&fs::read_to_string(&plan).unwrap());
    place.planned("cases/lora", &["--batch-sizes", "2,1"]);
    assert_ne!(line(&fs::read_to_string(&plan).unwrap()), second);
    // The same size, and other lines.
    fs::write(&index, older).unwrap();
    let outcome = place.sweep(&["run", "--index", "1"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let results = place.results();
    assert_eq!(results.len(), 1);
    assert!(
        !results[0].to_string_lossy().contains("batch-2"),
        "{results:?}"
    );
    fs::remove_file(&index).unwrap();
    let outcome = place.sweep(&["run", "--shard", "0/2"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(place.results().len(), 2);
    // With its own index, nothing but its job's line is read.
    place.planned("cases/lora", &["--batch-sizes", "2,1"]);
    let text = fs::read_to_string(&plan).unwrap();
    let damaged = text.replace("\"job\":0", "\"jxb\":0");
    assert_ne!(damaged, text);
    fs::write(&plan, damaged).unwrap();
    assert_eq!(place.sweep(&["run", "--index", "1"]).code, Some(0));
    assert_refused(
        &place.sweep(&["run", "--index", "0"]),
        &["line 2", "damaged"],
    );
}

#[test]
fn sets_of_cores_are_measured_on_at_once_and_prepared_for_beside() {
    let place = Place::new(20);
    let cores = std::thread::available_parallelism().unwrap().get();
    if cores < 2 {
        return;
    }
    place.planned("cases/lora", &["--batch-sizes", "1,2"]);
    let outcome = place.sweep(&["run", "--cores", "0,1"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let attempts = place.attempts();
    let times: Vec<f64> = attempts
        .values()
        .flatten()
        .map(|one| one["began"].as_f64().unwrap())
        .collect();
    assert!((times[0] - times[1]).abs() < 2.0, "{times:?}");
    for result in place.results() {
        let session = &read_json(&result)["run_info"]["session"];
        assert_eq!(
            session["allowed_cores"].as_array().unwrap().len(),
            1,
            "{session}"
        );
    }
    assert_refused(
        &place.sweep(&["run", "--cores", "0", "--prepare-cores", "0"]),
        &["share a core"],
    );
    place.planned("cases/lora,cases/dora,cases/vera", &[]);
    let outcome = place.sweep(&["run", "--cores", "0", "--prepare-cores", "1"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stderr.contains("preparing job"), "{outcome:?}");
}
