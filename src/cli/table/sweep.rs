//! The table of batch sizes.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::base_of;
use super::cells::{aligned, interval, milliseconds, none, peak, percent};
use crate::measure::comparison::{measured, overhead};
use crate::measure::prompt_group::PromptGroup;
use crate::measure::sweep::SweepRun;
use crate::results::summarize;

/// Batch size × group × variant.
pub fn sweep(runs: &[SweepRun], seed: u64) -> String {
    let header = [
        "batch",
        "prompts",
        "variant",
        "first token",
        "a step",
        "a token",
        "overhead",
        "95 % interval",
        "peak memory",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for run in runs {
        let base = base_of(&run.records);
        let groups: BTreeSet<PromptGroup> = run.records.iter().flat_map(measured).collect();
        for group in groups {
            for record in &run.records {
                let Some(metrics) = summarize(record, &[group]) else {
                    continue;
                };
                let over = base
                    .filter(|base| base.variant != record.variant)
                    .and_then(|base| overhead(base, record, &[group], run.paired, seed));
                rows.push(vec![
                    run.batch_size.to_string(),
                    group.to_string(),
                    record.label(),
                    milliseconds(Some(metrics.time_to_first_token)),
                    milliseconds(metrics.decode_time_per_token),
                    milliseconds(metrics.decode_time_per_batch_token),
                    over.as_ref().map_or_else(none, percent),
                    over.as_ref().map_or_else(none, interval),
                    peak(record, group),
                ]);
            }
        }
    }
    let records = runs.iter().flat_map(|run| &run.records);
    if records
        .into_iter()
        .any(|record| record.experiment.is_some())
    {
        for row in &mut rows {
            // The peak memory.
            row.pop();
        }
    }
    let mut text = format!("\n{}", aligned(&rows, 3));
    for run in runs {
        for record in &run.records {
            if let Some(error) = &record.error {
                let (size, label) = (run.batch_size, record.label());
                let _ = writeln!(text, "{label}  failed with batches of {size}: {error}");
            }
        }
    }
    text.push_str("(a step makes a token of every sequence of the batch; a token is a step over the batch's size)\n\n");
    text
}
