//! Lines beside the figures: what doesn't exist, where nodes ran, what the variants compute, how precise it is.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::cells::named;
use crate::engine::{NotLowered, StepGraph};
use crate::measure::executed::ExecutedGraph;
use crate::measure::record::SubjectRecord;
use crate::measure::session::ReachedPrecision;
use crate::parity::Parity;
use crate::prepared::Variant;

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

/// A line for each part of a variant that runs as prepared though another form is quicker. `title` names the experiment,
/// where there are several.
pub fn not_lowered(title: &str, found: &BTreeMap<Variant, Vec<NotLowered>>) -> String {
    let mut text = String::new();
    for (variant, all) in found {
        for one in all {
            let _ = writeln!(text, "{}  {one}", named(title, variant));
        }
    }
    text
}

/// A line for each variant whose decode steps aren't a CUDA graph, though that was asked for: its times say as much about that
/// as about the variant. `title` names the experiment, where there are several.
pub fn step_graphs<'a>(
    title: &str,
    records: impl IntoIterator<Item = &'a SubjectRecord>,
) -> String {
    let line = |record: &SubjectRecord| match &record.step_graph {
        Some(StepGraph::Refused(reason)) => {
            let name = named(title, record.variant);
            Some(format!(
                "{name}  its decode steps are no CUDA graph: {reason}\n"
            ))
        }
        Some(StepGraph::Captured) | None => None,
    };
    records.into_iter().filter_map(line).collect()
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

/// Whether the precision that was asked for was reached.
pub fn precision(precision: &ReachedPrecision) -> String {
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
