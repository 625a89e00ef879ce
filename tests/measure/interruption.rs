//! Runs that end early: by Ctrl-C, or because a process is killed.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::common::*;
use crate::workplace::{Workplace, ended, kill};

#[test]
fn ctrl_c_ends_as_cancelled_and_the_next_run_works() {
    let place = Workplace::new(1000);
    let (child, workers) = place.start_long();
    kill(child.id() as i32, "-INT");
    let (code, stderr) = ended(child);
    assert_eq!(code, Some(130), "{stderr}");
    let result = place.result("failed/lora--lora");
    assert_eq!(result["run_info"]["status"], "cancelled");
    assert!(place.results("lora--lora").is_empty());
    for worker in workers {
        assert!(
            !Path::new(&format!("/proc/{worker}/cmdline")).exists(),
            "a worker is left"
        );
    }

    let config = place.path("config.json");
    let shorter = fs::read_to_string(&config).unwrap().replace("1000", "2");
    fs::write(&config, shorter).unwrap();
    let outcome = place.measure(&case("llama-gqa", "lora"), &[]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
}

#[test]
fn a_killed_worker_fails_the_run_and_leaves_the_earlier_result() {
    let place = Workplace::new(1000);
    let run_and_kill = || {
        let (child, workers) = place.start_long();
        kill(workers[0], "-KILL");
        let (code, stderr) = ended(child);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(
            stderr.contains("signal 9") && stderr.contains("base"),
            "{stderr}"
        );
    };
    run_and_kill();
    let failed = only(&place.path("results/failed/lora--lora"));
    let earlier = place.path("results").join(failed.file_name().unwrap());
    fs::write(&earlier, "earlier").unwrap();
    run_and_kill();
    let result = place.result("failed/lora--lora");
    assert_eq!(result["run_info"]["status"], "failed");
    assert!(
        result["run_info"]["error"]
            .as_str()
            .unwrap()
            .contains("signal 9")
    );
    assert_eq!(fs::read_to_string(earlier).unwrap(), "earlier");
}

#[test]
fn a_killed_parent_takes_its_workers_along() {
    let place = Workplace::new(1000);
    let (child, workers) = place.start_long();
    kill(child.id() as i32, "-KILL");
    ended(child);
    let started = Instant::now();
    let alive = |id: &&i32| Path::new(&format!("/proc/{id}/cmdline")).exists();
    while workers.iter().any(|id| alive(&id)) {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "a worker is left"
        );
        sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_is_measured_completely_is_a_result_although_the_program_is_asked_to_end() {
    let place = Workplace::new(20);
    let (child, workers) = place.start_long();
    let alive = |id: &i32| Path::new(&format!("/proc/{id}/cmdline")).exists();
    let started = Instant::now();
    while workers.iter().any(alive) {
        assert!(started.elapsed() < Duration::from_secs(200), "it goes on");
        sleep(Duration::from_millis(1));
    }
    // Its intervals are being computed.
    kill(child.id() as i32, "-TERM");
    let (code, stderr) = ended(child);
    assert_eq!(code, Some(0), "{stderr}");
    let result = place.result("lora--lora");
    assert_eq!(result["run_info"]["status"], "success");
}

#[test]
fn a_worker_that_a_scheduler_ends_is_a_cancellation() {
    let place = Workplace::new(1000);
    let (child, workers) = place.start_long();
    kill(workers[1], "-TERM");
    let (code, stderr) = ended(child);
    assert_eq!(code, Some(130), "{stderr}");
    let result = place.result("failed/lora--lora");
    assert_eq!(result["run_info"]["status"], "cancelled");
}
