//! The table at the end of a measurement.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Write};

use crate::measure::break_even::{BreakEven, GroupBreakEven, Verdict};
use crate::measure::comparison::{half_width, measured, overhead};
use crate::measure::executed::ExecutedGraph;
use crate::measure::group::Group;
use crate::measure::interference::Interference;
use crate::measure::record::VariantRecord;
use crate::measure::session::Precision;
use crate::measure::stats::Overhead;
use crate::measure::subject::Subject;
use crate::measure::swap::SwapResult;
use crate::measure::sweep::SweepRun;
use crate::prepare::Variant;
use crate::results::{count_outliers, summarize};
use crate::verify::Parity;

/// Group × variant: medians, overheads against the base, and peak memory while generating.
pub fn render(records: &[VariantRecord], paired: bool, seed: u64) -> String {
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
    let groups: BTreeSet<Group> = records.iter().flat_map(measured).collect();
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
        let groups: BTreeSet<Group> = run.records.iter().flat_map(measured).collect();
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

fn base_of(records: &[VariantRecord]) -> Option<&VariantRecord> {
    let mut records = records.iter();
    records.find(|record| record.variant == Subject::Base)
}

fn none() -> String {
    "–".to_owned()
}

fn percent(over: &Overhead) -> String {
    format!("{:+.1} %", over.pct)
}

/// The peak while generating from prompts of `group`.
fn peak(record: &VariantRecord, group: Group) -> String {
    let name = group.to_string();
    let stage = record.stages.iter().find(|stage| stage.stage == name);
    stage.map_or_else(none, |stage| {
        mebibytes(stage.peak_accelerator_bytes.unwrap_or(stage.peak_rss_bytes))
    })
}

/// A line for each variant that doesn't exist; `title` names the experiment, where there are several.
pub fn absent(title: &str, absent: &BTreeMap<Variant, String>) -> String {
    let lines = absent
        .iter()
        .map(|(variant, reason)| format!("{}  not available: {reason}\n", named(title, variant)));
    lines.collect()
}

/// Where nodes ran, if not all on one provider and without copies: a line for each session of a variant. `title` names
/// the experiment, where there are several.
pub fn executed(
    title: &str,
    graphs: &BTreeMap<Variant, BTreeMap<String, ExecutedGraph>>,
) -> String {
    let mut text = String::new();
    for (variant, sessions) in graphs {
        let divided = |graph: &ExecutedGraph| graph.nodes.len() > 1 || graph.memory_copies > 0;
        for (session, graph) in sessions.iter().filter(|(_, graph)| divided(graph)) {
            let nodes = graph.nodes.iter();
            let nodes: Vec<String> = nodes
                .map(|(of, count)| format!("{count} on {of}"))
                .collect();
            let (name, copies) = (named(title, variant), graph.memory_copies);
            let _ = writeln!(
                text,
                "{name}  the nodes of its {session} ran {}; {copies} of them copy between host and device",
                nodes.join(", ")
            );
        }
    }
    text
}

fn named(title: &str, name: impl Display) -> String {
    match title {
        "" => name.to_string(),
        title => format!("{title} {name}"),
    }
}

/// A sentence about what the variants compute; empty where there was nothing to compare. `title` names the experiment,
/// where there are several.
pub fn parity(title: &str, parity: Option<&Parity>) -> String {
    let Some(parity) = parity else {
        return String::new();
    };
    let name = format!("{:<9}", named(title, "parity"));
    if !parity.passed {
        return format!(
            "{name} FAILED, so these times are not of the same model: {}\n",
            parity.failures.join("; ")
        );
    }
    let mut parts = Vec::new();
    if let (Some(difference), Some(same)) = (parity.merged_vs_unmerged, parity.same_tokens) {
        parts.push(format!(
            "merged and unmerged differ by {difference:.1e} {} ({:.0e} allowed), {same} of {} tokens are the \
             same",
            parity.norm.of_what(),
            parity.allowed, parity.of
        ));
    }
    parts.extend(parity.note.clone());
    if parts.is_empty() {
        return String::new();
    }
    format!("{name} {}\n", parts.join("; "))
}

/// A sentence for each adapter variant.
fn overall(
    text: &mut String,
    records: &[VariantRecord],
    base: Option<&VariantRecord>,
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
        |record: &&VariantRecord| !matches!(record.variant, Subject::Base | Subject::BaseAgain);
    let names = records.iter().filter(others).map(VariantRecord::label);
    let width = names.map(|name| name.chars().count()).max();
    let width = width.unwrap_or(0).max(14);
    for record in records.iter().filter(others) {
        if let Some(over) = overhead(base, record, &measured, paired, seed) {
            let verdict = match (over.detected, over.interval_pct) {
                (true, _) => "",
                (false, Some(_)) => " — no difference detected",
                (false, None) => " — too few runs to tell",
            };
            let _ = writeln!(
                text,
                "{:<width$} {:+.1} % over all prompts, {}{verdict}",
                record.label(),
                over.pct,
                interval(&over)
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

/// Reasons to distrust the figures, a line each: a busy machine, runs far from the others, cold first runs.
pub fn doubts(records: &[VariantRecord], interference: Option<&Interference>) -> String {
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

/// What the base against itself says about the machine.
fn aa(again: &Overhead) -> String {
    let Some([low, high]) = again.interval_pct else {
        return "a/a       too few runs to tell how far the base differs from itself".to_owned();
    };
    let verdict = if low <= 0.0 && high >= 0.0 {
        "contains zero, as it should"
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

/// What swapping adapters takes. `title` names the experiment, where there are several.
pub fn swap(title: &str, result: &SwapResult, seed: u64) -> String {
    let name = format!("{:<9}", named(title, "swap"));
    let times = match result {
        SwapResult::Absent(reason) => return format!("{name} not available: {reason}\n"),
        SwapResult::Failed(error) => return format!("{name} failed: {error}\n"),
        SwapResult::Measured(times) => times,
    };
    let Some(found) = times.metrics(seed) else {
        return String::new();
    };
    let over = found.first_token_overhead.as_ref();
    let verdict = match over.is_some_and(|over| over.detected) {
        true => "",
        false => " — no difference detected",
    };
    format!(
        "{name} {} adapters of {} take turns: reading one takes {}, binding it {}\n          first token {} after a \
         swap, {} without: {}, {}{verdict}\n",
        found.adapters,
        size(found.adapter_bytes),
        milliseconds(Some(found.load_seconds)),
        milliseconds(Some(found.swap_seconds)),
        milliseconds(Some(found.first_token_after)),
        milliseconds(Some(found.first_token_without)),
        over.map_or_else(none, percent),
        over.map_or_else(none, interval),
    )
}

fn size(bytes: u64) -> String {
    match bytes >= 1 << 20 {
        true => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        false => format!("{:.1} KiB", bytes as f64 / 1024.0),
    }
}

/// When merging has paid for itself: a line for all groups, or one for each where they differ. `title` names the
/// experiment, where there are several.
pub fn break_even(title: &str, found: &BreakEven) -> String {
    let name = named(title, "break-even");
    let extra = found.extra_seconds;
    let verdict = |group: &GroupBreakEven| match group.verdict {
        Verdict::AtOnce => "paid at once".to_owned(),
        Verdict::Never => "never paid back, since merged is slower".to_owned(),
        Verdict::NotDetected => "no saving detected".to_owned(),
        Verdict::After { tokens, interval } => {
            let [low, high] = interval.map(rounded);
            format!(
                "paid back after {} tokens ({low} … {high})",
                rounded(tokens)
            )
        }
    };
    let mut verdicts: Vec<(String, Vec<String>)> = Vec::new();
    for group in &found.groups {
        let text = verdict(group);
        match verdicts.last_mut() {
            Some((last, groups)) if *last == text => groups.push(group.group.to_string()),
            _ => verdicts.push((text, vec![group.group.to_string()])),
        }
    }
    let cost = match extra {
        more if more >= 0.005 => format!("merging and loading take {more:.2} s more than unmerged"),
        less if less <= -0.005 => format!("merged is ready {:.2} s before unmerged", -less),
        _ => "merged is ready as soon as unmerged".to_owned(),
    };
    if let [(text, _)] = verdicts.as_slice() {
        return format!("{name:<9} {cost}: {text}\n");
    }
    let mut lines = format!("{name:<9} {cost}\n");
    for (text, groups) in verdicts {
        let _ = writeln!(lines, "          {}: {text}", groups.join(", "));
    }
    lines
}

/// Two significant digits, with spaces between thousands.
fn rounded(count: f64) -> String {
    let digits = 10_f64.powf(count.max(1.0).log10().floor() - 1.0).max(1.0);
    let text = format!("{:.0}", (count / digits).round() * digits);
    let mut spaced = String::new();
    for (index, digit) in text.char_indices() {
        if index > 0 && (text.len() - index) % 3 == 0 {
            spaced.push('\u{202f}');
        }
        spaced.push(digit);
    }
    spaced
}

/// Whether the precision that was asked for was reached.
pub fn precision(precision: &Precision) -> String {
    let runs = precision.runs;
    let Some(half_width) = precision.half_width_pct else {
        return "precision  there is no interval to judge by\n".to_owned();
    };
    let target = precision.target_pct;
    if precision.met {
        return format!(
            "precision ±{half_width:.1} % after {runs} runs of each prompt (±{target} % asked for)\n"
        );
    }
    format!(
        "precision warning: the time was over at ±{half_width:.1} %, after {runs} runs of each prompt \
         (±{target} % asked for)\n"
    )
}

fn interval(over: &Overhead) -> String {
    match over.interval_pct {
        Some([low, high]) => format!("{low:+.1} … {high:+.1} %"),
        None => none(),
    }
}

fn milliseconds(seconds: Option<f64>) -> String {
    match seconds {
        None => none(),
        Some(seconds) if seconds < 1e-6 => "under 1 µs".to_owned(),
        Some(seconds) if seconds < 1e-3 => format!("{:.0} µs", seconds * 1e6),
        Some(seconds) if seconds < 0.1 => format!("{:.2} ms", seconds * 1e3),
        Some(seconds) => format!("{:.0} ms", seconds * 1e3),
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.0} MiB", bytes as f64 / 1_048_576.0)
}

/// Columns as wide as their widest cell: the first ones, of names, to the left, and numbers to the right.
fn aligned(rows: &[Vec<String>], names: usize) -> String {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .enumerate()
            .map(|(column, cell)| match column < names {
                true => format!("{cell:<width$}", width = width(column)),
                false => format!("{cell:>width$}", width = width(column)),
            })
            .collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompts::Category;

    fn found(verdicts: [Verdict; 3]) -> BreakEven {
        let groups = Category::ALL.into_iter().zip(verdicts);
        BreakEven {
            extra_seconds: 0.5,
            groups: groups
                .map(|(category, verdict)| GroupBreakEven {
                    group: Group::Category(category),
                    saving_per_token: 0.0,
                    saving_interval: None,
                    verdict,
                })
                .collect(),
        }
    }

    #[test]
    fn where_nodes_ran_is_told_if_it_is_not_all_in_one_place() {
        let graph = |nodes: &[(&str, usize)], memory_copies| ExecutedGraph {
            nodes: nodes
                .iter()
                .map(|(name, count)| ((*name).to_owned(), *count))
                .collect(),
            memory_copies,
            ..ExecutedGraph::default()
        };
        let graphs = BTreeMap::from([
            (Variant::Base, graph(&[("CPU", 9)], 0)),
            (Variant::Unmerged, graph(&[("CPU", 1), ("CUDA", 8)], 2)),
        ]);
        let step = |(variant, graph)| (variant, BTreeMap::from([("step".to_owned(), graph)]));
        let graphs = graphs.into_iter().map(step).collect();
        assert_eq!(
            executed("", &graphs),
            "unmerged  the nodes of its step ran 1 on CPU, 8 on CUDA; 2 of them copy between host and device\n"
        );
    }

    #[test]
    fn groups_that_agree_on_the_break_even_share_a_line() {
        let text = break_even("", &found([Verdict::NotDetected; 3]));
        assert_eq!(text.lines().count(), 1);
        assert!(text.ends_with("0.50 s more than unmerged: no saving detected\n"));

        let after = Verdict::After {
            tokens: 12_345.6,
            interval: [987.0, 1e6],
        };
        let text = break_even("", &found([Verdict::Never, Verdict::Never, after]));
        assert!(text.contains("short, medium: never"), "{text}");
        assert!(
            text.contains(
                "long: paid back after 12\u{202f}000 tokens (990 … 1\u{202f}000\u{202f}000)"
            ),
            "{text}"
        );
    }
}
