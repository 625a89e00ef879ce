//! `--quiet-gate` on a machine that a busy process keeps from being quiet.

use std::process::{Child, Command};

use crate::common::case;
use crate::workplace::Workplace;

/// A process that keeps a core busy while it lives.
struct Busy(Child);

impl Busy {
    fn start() -> Self {
        let spinning = ["-c", "while :; do :; done"];
        Self(Command::new("sh").args(spinning).spawn().unwrap())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_busy_machine_is_refused_with_nothing_written_or_measured_all_the_same() {
    let place = Workplace::new(1);
    let target = case("llama-gqa", "lora");
    let gate = ["--quiet-gate", "2s", "--quiet-share", "0.001%"];
    let _busy = Busy::start();
    let refused = place.measure(&target, &gate);
    assert_eq!(refused.code, Some(3), "{refused:?}");
    assert_eq!(refused.stdout, "");
    let error = refused.stderr.lines().last().unwrap();
    for expected in [
        "error: the machine isn't quiet after 2 s, so nothing was measured",
        "% of the cores' time",
        "(pid ",
        "`--when-busy measure`",
    ] {
        assert!(error.contains(expected), "{error}");
    }
    assert!(!place.path("results").exists());

    let measured = place.measure(&target, &[&gate[..], &["--when-busy", "measure"]].concat());
    assert_eq!(measured.code, Some(0), "{measured:?}");
    assert!(
        measured
            .stderr
            .contains("warning: the machine isn't quiet after 2 s"),
        "{}",
        measured.stderr
    );
    assert!(
        measured
            .stdout
            .contains("warning: the machine wasn't quiet after 2 s of waiting"),
        "{}",
        measured.stdout
    );
    let kept = &place.result("lora--lora")["run_info"]["quiet_gate"];
    assert_eq!(kept["quiet"], false);
    assert_eq!(kept["waited_seconds"], 2);
    assert_eq!(kept["wait_seconds"], 2.0);
    assert!(
        kept["other_processes_share"].as_f64().unwrap() + kept["steal_share"].as_f64().unwrap()
            > 0.0
    );
    // A name may say more than its owner wants to share.
    assert!(kept.get("heaviest").is_none());
}

#[test]
fn the_base_alone_can_wait_too_and_a_wait_needs_two_seconds() {
    let place = Workplace::new(1);
    let _busy = Busy::start();
    let base = ["base", "--prompts", "prompts.json", "--quiet-gate", "2s"];
    let base = [&base[..], &["--quiet-share", "0.001%"]].concat();
    let refused = crate::common::run(&mut place.command(&base));
    assert_eq!(refused.code, Some(3), "{refused:?}");
    let short = place.measure(&case("llama-gqa", "lora"), &["--quiet-gate", "1s"]);
    assert_eq!(short.code, Some(2), "{short:?}");
    assert!(
        short.stderr.contains("at least two seconds"),
        "{}",
        short.stderr
    );
    let alone = place.measure(&case("llama-gqa", "lora"), &["--when-busy", "measure"]);
    assert_eq!(alone.code, Some(2), "{alone:?}");
}
