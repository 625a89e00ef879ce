//! Reasons to distrust the figures.

use std::fmt::Write;

use crate::report::caveats::{machine_warnings, waits_for_disk};
use crate::report::measured::Participant;
use crate::report::model::{Report, Variant};

/// Reasons to distrust the figures, a line each: a busy machine, one whose speed drifts, other
/// states of it that make times worse; runs far from the others, cold first runs. `report` is one
/// of those that were measured together.
pub(super) fn caveats(all: &[Participant<Variant>], report: &Report) -> String {
    let mut text = String::new();
    let drift = report.generation_info.drift.value();
    if let Some(drift) = drift.filter(|drift| drift.drifting) {
        let _ = writeln!(text, "warning: {}", drift.sentence());
    }
    let interference = report.run_info.interference.value();
    if let Some(found) = interference.filter(|found| found.disturbed) {
        let _ = writeln!(
            text,
            "warning: others took {:.0} % of the cores' time while this ran ({:.0} points of it went to other virtual machines); \
             `--quiet-gate 60s` waits until the machine is quiet",
            (found.other_processes_share + found.steal_share) * 100.0,
            found.steal_share * 100.0
        );
    }
    for warning in machine_warnings(report) {
        let _ = writeln!(text, "warning: {}", uncapitalized(&warning));
    }
    for one in all {
        let samples = || one.found.samples();
        let runs: usize = samples().map(|of| of.individual_runs.len()).sum();
        let outliers: usize = samples().map(|of| of.outliers.indices.len()).sum();
        let slow_first = samples().filter(|of| of.outliers.slow_first_run).count();
        let label = one.label();
        if outliers > 0 {
            let are = if outliers == 1 { "is" } else { "are" };
            let _ = writeln!(
                text,
                "warning: {outliers} of {runs} runs of `{label}` {are} far from the others of their prompt"
            );
        }
        if let Some(sentence) = waits_for_disk(&format!("`{label}`"), one.found) {
            let _ = writeln!(text, "warning: {}", uncapitalized(&sentence));
        }
        if slow_first > 0 {
            let prompts = if slow_first == 1 { "prompt" } else { "prompts" };
            let _ = writeln!(
                text,
                "warning: the first run of {slow_first} {prompts} was slow with `{label}`; warming up may have been too short"
            );
        }
    }
    text
}

/// With a lower-case letter at its beginning.
fn uncapitalized(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_lowercase().chain(characters).collect(),
        None => String::new(),
    }
}
