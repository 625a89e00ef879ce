//! Each adapter variant against the base, and the base against itself, over all prompts.

use std::fmt::Write;

use super::cells::{interval, too_few, verdict};
use crate::measure::subject::Subject;
use crate::report::measured::Participant;
use crate::report::model::{Overhead, Variant};

/// A sentence for each adapter variant.
pub(super) fn overall(text: &mut String, all: &[Participant<Variant>]) {
    let find = |subject: Subject| all.iter().find(|one| one.subject == subject.name());
    let Some(base) = find(Subject::Base) else {
        return;
    };
    text.push('\n');
    // Over all prompts that the base was measured on: what ended before that isn't told.
    let over = |found: &'_ Variant| {
        let mut groups = base.found.by_category.iter();
        let complete = groups.all(|(group, _)| found.by_category.get(group).is_some());
        found.overall_overhead().copied().filter(|_| complete)
    };
    let again = find(Subject::BaseAgain).and_then(|again| over(again.found));
    let is_other = |one: &&Participant<Variant>| {
        let bases = [Subject::Base, Subject::BaseAgain];
        bases.iter().all(|base| base.name() != one.subject)
    };
    let names = all.iter().filter(is_other).map(Participant::label);
    let width = names.map(|name| name.chars().count()).max();
    let width = width.unwrap_or(0).max(14);
    for one in all.iter().filter(is_other) {
        if let Some(over) = over(one.found) {
            let _ = writeln!(
                text,
                "{:<width$} {:+.1} % over all prompts, {}{}",
                one.label(),
                over.pct,
                interval(over.interval_pct),
                verdict(&over)
            );
            let noise = again.as_ref().and_then(Overhead::half_width);
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
            interval(again.interval_pct),
            too_few(again)
        );
    } else {
        "warning: does not contain zero; something favours one of two equal processes"
    };
    let smallest = (high - low) / 2.0;
    format!(
        "a/a       the base against itself: {}, {verdict}; on this machine now, overheads below about {smallest:.1} % \
         can't be told from none",
        interval(again.interval_pct)
    )
}
