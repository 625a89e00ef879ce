//! Each adapter variant against the base, and the base against itself, over all prompts.

use std::fmt::Write;

use super::cells::{interval, too_few, verdict};
use crate::measure::stats::MIN_STARTS;
use crate::measure::subject::Subject;
use crate::report::many::correct;
use crate::report::measured::Participant;
use crate::report::model::{Overhead, Variant};
use crate::report::table::Value;

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
    let compared = all.iter().filter(is_other);
    let compared = compared.filter_map(|one| Some((one, over(one.found)?)));
    let compared: Vec<(&Participant<Variant>, Overhead)> = compared.collect();
    let taken_back = taken_back(&compared);
    for ((one, over), is_taken_back) in compared.iter().zip(taken_back) {
        let verdict = match is_taken_back {
            true => " — no difference detected among all of these".to_owned(),
            false => verdict(over),
        };
        let _ = writeln!(
            text,
            "{:<width$} {:+.1} % over all prompts, {}{verdict}",
            one.label(),
            over.pct,
            interval(over.interval_pct),
        );
        let noise = again.as_ref().and_then(Overhead::half_width);
        if let Some(noise) = noise.filter(|noise| *noise > over.pct.abs()) {
            let _ = writeln!(
                text,
                "          warning: that is less than the {noise:.1} points by which the base differs from itself"
            );
        }
    }
    if let Some(again) = &again {
        let _ = writeln!(text, "{}", aa(again));
    }
    let overheads = compared.iter().map(|(_, over)| over).chain(&again);
    let starts = overheads.filter(|over| over.interval_pct.is_some());
    if let Some(starts) = starts.filter_map(|over| over.starts).min() {
        let _ = writeln!(text, "{}", of_starts(starts));
    }
}

/// Whose verdicts don't hold with all experiments in view. Of a single one, all hold.
fn taken_back(compared: &[(&Participant<Variant>, Overhead)]) -> Vec<bool> {
    let value = |(one, over): &(&Participant<Variant>, Overhead)| match one.subject {
        empty if empty == Subject::UnmergedEmpty.name() => Value::from(Some(over)),
        _ => Value::one_of_many(Some(over), one.found.by_category.values().count()),
    };
    let mut rows: Vec<Vec<Value>> = compared.iter().map(|one| vec![value(one)]).collect();
    if compared.iter().any(|(one, _)| one.experiment.is_some()) {
        correct(&mut rows, &[vec![0]]);
    }
    let is_taken_back = |value: &Value| match value {
        Value::Estimate { is_taken_back, .. } => *is_taken_back,
        _ => false,
    };
    rows.iter().map(|row| is_taken_back(&row[0])).collect()
}

/// What intervals cover, by how often the processes were started.
fn of_starts(starts: usize) -> String {
    let count = match starts {
        1 => "one start".to_owned(),
        several => format!("{several} starts"),
    };
    match starts >= MIN_STARTS {
        true => {
            format!("starts    {count} of all processes: intervals cover what differs between them")
        }
        false => format!(
            "starts    {count} of all processes: intervals leave out what differs from one to the next (`--restarts 5` covers it)"
        ),
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
