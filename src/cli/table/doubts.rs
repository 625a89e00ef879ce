//! Reasons to distrust the figures.

use std::fmt::Write;

use crate::measure::interference::Interference;
use crate::measure::record::SubjectRecord;
use crate::results::count_outliers;

/// Reasons to distrust the figures, a line each: a busy machine, runs far from the others, cold first runs.
pub fn doubts(records: &[SubjectRecord], interference: Option<&Interference>) -> String {
    let mut text = String::new();
    if let Some(found) = interference.filter(|found| found.disturbed) {
        let _ = writeln!(
            text,
            "warning: others took {:.0} % of the cores' time while this ran ({:.0} points of it went to other virtual machines)",
            (found.other_processes_share + found.steal_share) * 100.0,
            found.steal_share * 100.0
        );
    }
    for record in records {
        let (outliers, slow_first) = count_outliers(record);
        if outliers > 0 {
            let _ = writeln!(
                text,
                "warning: {} of {} runs of `{}` are far from the others of their prompt",
                outliers,
                record.runs.len(),
                record.label()
            );
        }
        if slow_first > 0 {
            let _ = writeln!(
                text,
                "warning: the first run of {slow_first} prompts was slow with `{}`; warming up may have been too short",
                record.label()
            );
        }
    }
    text
}
