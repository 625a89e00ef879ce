//! `sweep submit` and `sweep manifest`, with stubs in the place of engines.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::common::*;
use crate::place::Place;

/// A place with four jobs, and stubs that write down how they're called.
fn with_stubs() -> Place {
    let place = Place::new(2);
    place.planned("cases/lora,cases/dora", &["--batch-sizes", "1,2"]);
    let stub = |name: &str, prints: &str| {
        let path = place.path("bin").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let log = place.path("calls");
        let text = format!(
            "#!/bin/sh\necho {name} \"$@\" >> {}\n{prints}\n",
            log.display()
        );
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    stub("sbatch", "echo 17");
    stub("scontrol", "echo 'MaxArraySize            = 1001'");
    stub("squeue", "echo PENDING; echo RUNNING");
    stub("scancel", "");
    stub("hq", "echo 5");
    place
}

fn stubbed(place: &Place, arguments: &[&str]) -> Command {
    let path = std::env::var("PATH").unwrap();
    let mut command = place.command(arguments);
    command.env("PATH", format!("{}:{path}", place.path("bin").display()));
    command
}

#[test]
fn slurm_gets_an_array_of_open_jobs_and_a_report_behind_it() {
    let place = with_stubs();
    let shown = place.sweep(&[
        "submit",
        "--launcher",
        "slurm",
        "--print",
        "--at-once",
        "2",
        "--",
        "--partition=p",
    ]);
    assert!(
        shown.stdout.contains("#SBATCH --array=0-3%2\n") && shown.stdout.contains("--partition=p"),
        "{shown:?}"
    );
    assert!(!place.path("sweeps/sweep/submissions.jsonl").exists());
    let outcome = run(&mut stubbed(&place, &["submit", "--launcher", "slurm"]));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let calls = fs::read_to_string(place.path("calls")).unwrap();
    let calls: Vec<&str> = calls.lines().collect();
    assert!(calls[1].starts_with("sbatch --test-only"), "{calls:?}");
    assert!(
        calls[2].starts_with("sbatch --parsable ") && calls[2].ends_with("slurm-array.sh"),
        "{calls:?}"
    );
    assert!(calls[3].contains("--dependency=afterany:17"), "{calls:?}");
    let status = run(&mut stubbed(&place, &["status"]));
    assert!(
        status
            .stdout
            .contains("Slurm says of 17, 17: 1 pending, 1 running"),
        "{status:?}"
    );
    assert_eq!(run(&mut stubbed(&place, &["cancel"])).code, Some(0));
    let calls = fs::read_to_string(place.path("calls")).unwrap();
    assert!(calls.contains("scancel --quiet 17 17"), "{calls}");
}

#[test]
fn hyperqueue_gets_a_job_with_a_task_for_each() {
    let place = with_stubs();
    let outcome = run(&mut stubbed(
        &place,
        &[
            "submit",
            "--launcher",
            "hq",
            "--cpus",
            "2",
            "--",
            "--max-fails=3",
        ],
    ));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let calls = fs::read_to_string(place.path("calls")).unwrap();
    assert!(
        calls.starts_with("hq submit --output-mode=quiet --name=peft-bench-"),
        "{calls}"
    );
    assert!(
        calls.contains("--array=0-3 --cpus=2") && calls.contains("--max-fails=3 -- /"),
        "{calls}"
    );
    assert!(
        calls.contains("sweep run ") && calls.contains("--index auto --plan "),
        "{calls}"
    );
    assert_eq!(run(&mut stubbed(&place, &["cancel"])).code, Some(0));
    let calls = fs::read_to_string(place.path("calls")).unwrap();
    assert!(calls.contains("hq job cancel 5"), "{calls}");
}

#[test]
fn an_engine_that_is_not_there_or_refuses_is_an_error_with_its_words() {
    let place = Place::new(2);
    place.planned("cases/lora", &[]);
    let mut command = place.command(&["submit", "--launcher", "hq"]);
    assert_refused(
        &run(command.env("PATH", place.path("bin"))),
        &["`hq`", "PATH"],
    );
    let place = with_stubs();
    fs::write(
        place.path("bin/sbatch"),
        "#!/bin/sh\necho 'invalid partition' >&2\nexit 1\n",
    )
    .unwrap();
    let outcome = run(&mut stubbed(&place, &["submit", "--launcher", "slurm"]));
    assert_refused(&outcome, &["sbatch --parsable", "invalid partition"]);
}

#[test]
fn the_manifest_is_an_indexed_job_whose_parts_fit_together() {
    let place = with_stubs();
    let mount = place.folder.path().to_str().unwrap().to_owned();
    let manifest_at = |mount: &str, more: &[&str]| {
        let image = ["--image", "r/p:1", "--claim", "shared", "--mount", mount];
        place.sweep(&[&["manifest", "--kubernetes"], &image[..], more].concat())
    };
    let manifest = |more: &[&str]| manifest_at(&mount, more);
    let outcome = manifest(&["--cpus", "2", "--memory", "4Gi"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let lines: Vec<&str> = outcome.stdout.lines().map(str::trim).collect();
    for line in [
        "completionMode: Indexed",
        "completions: 4",
        "parallelism: 4",
        "backoffLimitPerIndex: 1",
        "maxFailedIndexes: 4",
        "restartPolicy: Never",
        "values: [2]",
        "status: \"True\"",
        "claimName: shared",
        "- \"auto\"",
    ] {
        assert!(
            lines.contains(&line),
            "`{line}` is not in {}",
            outcome.stdout
        );
    }
    assert_eq!(
        lines.iter().filter(|line| **line == "memory: 4Gi").count(),
        2
    );
    assert_refused(&manifest(&["--name", "Sweep"]), &["`Sweep`", "lower-case"]);
    assert_refused(&manifest(&["--memory", "4GB"]), &["`4GB`"]);
    assert_refused(&manifest_at("/elsewhere", &[]), &["--mount"]);
}
