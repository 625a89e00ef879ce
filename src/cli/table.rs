//! What's printed at the end of a measurement: tables, and a line for whatever else there is to say.

mod break_even;
mod cells;
mod doubts;
mod notes;
mod overall;
mod swap;
mod sweep;
#[cfg(test)]
mod tests;

pub use break_even::break_even;
pub use doubts::doubts;
pub use notes::{absent, executed, not_lowered, parity, precision, step_graphs};
pub use swap::swap;
pub use sweep::sweep;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::measure::comparison::{measured, overhead};
use crate::measure::prompt_group::PromptGroup;
use crate::measure::record::SubjectRecord;
use crate::measure::subject::Subject;
use crate::results::summarize;
use cells::{aligned, interval, milliseconds, none, peak, percent};
use overall::overall;

/// Group × variant: medians, overheads against the base, and peak memory while generating.
pub fn render(records: &[SubjectRecord], paired: bool, seed: u64) -> String {
    let base = base_of(records);
    // Several experiments have longer names, and some columns are left to the result files.
    let several = records.iter().any(|record| record.experiment.is_some());
    let batch = records.first().map_or(1, |record| record.batch_size);
    let step = if batch == 1 { "a token" } else { "a step" };
    let header = [
        "prompts",
        "variant",
        "first token",
        step,
        "roofline",
        "total",
        "overhead",
        "95 % interval",
        "peak memory",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    let groups: BTreeSet<PromptGroup> = records.iter().flat_map(measured).collect();
    for group in groups {
        for record in records {
            let Some(metrics) = summarize(record, &[group]) else {
                continue;
            };
            let over = base
                .filter(|base| base.variant != record.variant)
                .and_then(|base| overhead(base, record, &[group], paired, seed));
            rows.push(vec![
                group.to_string(),
                record.label(),
                milliseconds(Some(metrics.time_to_first_token)),
                milliseconds(metrics.decode_time_per_token),
                metrics
                    .roofline
                    .map_or_else(none, |of| format!("{:.0} %", of.decode_pct)),
                milliseconds(Some(metrics.inference_time)),
                over.as_ref().map_or_else(none, percent),
                over.as_ref().map_or_else(none, interval),
                peak(record, group),
            ]);
        }
    }
    if several {
        for row in &mut rows {
            // The total time, and the part of the roofline.
            row.remove(5);
            row.remove(4);
        }
    }
    let mut text = aligned(&rows, 2);
    overall(&mut text, records, base, paired, seed);
    for record in records {
        if let Some(error) = &record.error {
            let _ = writeln!(text, "{}  failed: {error}", record.label());
        }
    }
    text
}

/// How many tokens the prompts of each group have: those of the shortest and of the longest.
pub fn prompt_tokens(records: &[SubjectRecord]) -> String {
    let mut counts: BTreeMap<PromptGroup, (usize, usize)> = BTreeMap::new();
    for run in records.iter().flat_map(|record| &record.runs) {
        let count = run.prompt_tokens;
        let (least, most) = counts.entry(run.group).or_insert((count, count));
        *least = count.min(*least);
        *most = count.max(*most);
    }
    let said: Vec<String> = counts
        .into_iter()
        .map(|(group, (least, most))| match least == most {
            true => format!("{group} {least}"),
            false => format!("{group} {least}–{most}"),
        })
        .collect();
    match said.is_empty() {
        true => String::new(),
        false => format!("tokens of the prompts: {}\n", said.join(", ")),
    }
}

fn base_of(records: &[SubjectRecord]) -> Option<&SubjectRecord> {
    let mut records = records.iter();
    records.find(|record| record.variant == Subject::Base)
}
