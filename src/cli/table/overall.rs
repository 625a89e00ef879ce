//! Each adapter variant against the base, and the base against itself, over all prompts.

use std::fmt::Write;

use super::cells::{interval, too_few, verdict};
use crate::measure::comparison::{half_width, measured, overhead};
use crate::measure::record::SubjectRecord;
use crate::measure::stats::Overhead;
use crate::measure::subject::Subject;

/// A sentence for each adapter variant.
pub(super) fn overall(
    text: &mut String,
    records: &[SubjectRecord],
    base: Option<&SubjectRecord>,
    paired: bool,
    seed: u64,
) {
    let Some(base) = base else {
        return;
    };
    let measured = measured(base);
    text.push('\n');
    let again = records
        .iter()
        .find(|record| record.variant == Subject::BaseAgain);
    let again = again.and_then(|record| overhead(base, record, &measured, paired, seed));
    let others =
        |record: &&SubjectRecord| !matches!(record.variant, Subject::Base | Subject::BaseAgain);
    let names = records.iter().filter(others).map(SubjectRecord::label);
    let width = names.map(|name| name.chars().count()).max();
    let width = width.unwrap_or(0).max(14);
    for record in records.iter().filter(others) {
        if let Some(over) = overhead(base, record, &measured, paired, seed) {
            let _ = writeln!(
                text,
                "{:<width$} {:+.1} % over all prompts, {}{}",
                record.label(),
                over.pct,
                interval(&over),
                verdict(&over)
            );
            let noise = again.as_ref().and_then(half_width);
            if let Some(noise) = noise.filter(|noise| *noise > over.pct.abs()) {
                let _ = writeln!(
                    text,
                    "          warning: that is less than the {noise:.1} points by which the base differs from itself"
                );
            }
        }
    }
    if let Some(again) = &again {
        let _ = writeln!(text, "{}", aa(again));
    }
}

/// What the base against itself says about the machine.
fn aa(again: &Overhead) -> String {
    let Some([low, high]) = again.interval_pct else {
        return "a/a       too few runs to tell how far the base differs from itself".to_owned();
    };
    let verdict = if low <= 0.0 && high >= 0.0 {
        "contains zero, as it should"
    } else if !again.enough() {
        return format!(
            "a/a       the base against itself: {}, {}",
            interval(again),
            too_few(again)
        );
    } else {
        "warning: does not contain zero; something favours one of two equal processes"
    };
    let smallest = (high - low) / 2.0;
    format!(
        "a/a       the base against itself: {}, {verdict}; on this machine now, overheads below about {smallest:.1} % \
         can't be told from none",
        interval(again)
    )
}
