//! Lines beside the figures: what doesn't exist, where nodes ran, what the variants compute, how
//! precise it is.

use std::fmt::Write;

use super::cells::{named, none};
use crate::engine::StepGraph;
use crate::measure::executed::ExecutedGraph;
use crate::measure::session::ReachedPrecision;
use crate::measure::subject::Subject;
use crate::measure::timed_tokens::TimedTokens;
use crate::prepared;
use crate::report::model::{GenerationInfo, Norm, Parity, Variant};

/// The variants that are prepared, in their order; what was measured twice ran the same nodes
/// twice.
fn prepared_variants(info: &GenerationInfo) -> impl Iterator<Item = (&'static str, &Variant)> {
    use prepared::Variant::{Base, Merged, Unmerged};
    let names = [Base, Merged, Unmerged].map(prepared::Variant::name);
    let all = names.into_iter();
    all.filter_map(|name| Some((name, info.measured(name)?)))
}

/// A line for each variant that doesn't exist; `title` names the experiment, where there are
/// several.
pub(super) fn absent(title: &str, info: &GenerationInfo) -> String {
    let all = info.variants.iter();
    let absent = all.filter_map(|(name, entry)| Some((name, entry.absent()?)));
    absent
        .map(|(name, reason)| format!("{}  not available: {reason}\n", named(title, name)))
        .collect()
}

/// Where nodes ran, if not all on one provider and without copies: a line for each session of a
/// variant. `title` names the experiment, where there are several.
pub(super) fn executed(title: &str, info: &GenerationInfo) -> String {
    let mut text = String::new();
    for (variant, found) in prepared_variants(info) {
        let divided = |graph: &ExecutedGraph| graph.nodes.len() > 1 || graph.memory_copies > 0;
        let sessions = found.executed.value().into_iter().flatten();
        for (session, graph) in sessions.filter(|(_, graph)| divided(graph)) {
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

/// A line for each part of a variant that runs as prepared although a faster form exists. `title`
/// names the experiment, where there are several.
pub(super) fn not_lowered(title: &str, info: &GenerationInfo) -> String {
    let mut text = String::new();
    for (variant, found) in prepared_variants(info) {
        for one in found.not_lowered.iter().flatten() {
            let _ = writeln!(text, "{}  {one}", named(title, variant));
        }
    }
    text
}

/// A line for each variant whose decode steps aren't a CUDA graph, although that was asked for: its
/// times say as much about that as about the variant. `title` names the experiment, where there are
/// several.
pub(super) fn step_graphs(title: &str, info: &GenerationInfo) -> String {
    let line = |(name, found): (&str, &Variant)| match &found.cuda_graph {
        Some(StepGraph::Refused(reason)) => {
            let name = named(title, name);
            Some(format!(
                "{name}  its decode steps are no CUDA graph: {reason}\n"
            ))
        }
        Some(StepGraph::Captured) | None => None,
    };
    info.all_measured().filter_map(line).collect()
}

/// A line about the graph that another program exported. `title` names the folder, where there are
/// several targets.
pub(super) fn graph(title: &str, info: &GenerationInfo) -> String {
    let has_own = info.measured(Subject::Exported.name()).is_some();
    let line = |(name, found): (&str, &Variant)| {
        // The base of several is another of them, and has a line of its own.
        let is_another = has_own && name != Subject::Exported.name();
        let facts = found.graph.as_ref().filter(|_| !is_another)?;
        let name = match (title, name) {
            ("", name) => name,
            (title, _) => title,
        };
        Some(format!("{name}  {facts}\n"))
    };
    info.all_measured().filter_map(line).collect()
}

/// A sentence about what the variants compute; empty where there's nothing to say. `title` names
/// the experiment, where there are several.
pub(super) fn parity(title: &str, parity: &Parity) -> String {
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
            parity.norm.unwrap_or(Norm::Largest).of_what(),
            parity.allowed, parity.of
        ));
    }
    if let Some(longest) = parity.longest.value()
        && let (Some(difference), Some(same)) = (longest.merged_vs_unmerged, longest.same_tokens)
    {
        parts.push(format!(
            "on the longest prompt by {difference:.1e}, {same} of {}",
            longest.of
        ));
    }
    if let Some(exported) = &parity.exported {
        parts.push(format!(
            "its logits differ from those of {} by {} {} ({:.0e} allowed), {} of {} tokens are the same",
            exported.reference,
            exported.difference.map_or_else(none, |found| format!("{found:.1e}")),
            parity.norm.unwrap_or(Norm::Largest).of_what(),
            parity.allowed,
            parity.same_tokens.unwrap_or(0),
            parity.of
        ));
    }
    parts.extend(parity.note.clone());
    if parts.is_empty() {
        return String::new();
    }
    format!("{name} {}\n", parts.join("; "))
}

/// Where timed runs generate something else than what was checked, or not always the same; empty
/// where they don't. `title` names the experiment, where there are several.
pub(super) fn timed_tokens(title: &str, tokens: &TimedTokens) -> String {
    let name = format!("{:<9}", named(title, "tokens"));
    let mut text = String::new();
    if !tokens.differences.is_empty() {
        let differences = tokens.differences.join("; ");
        let _ = writeln!(
            text,
            "{name} FAILED, so these times are not of what was checked: {differences}"
        );
    }
    if !tokens.unsteady.is_empty() {
        let _ = writeln!(text, "{name} warning: {}", tokens.unsteady.join("; "));
    }
    text
}

/// Whether the precision that was asked for was reached.
pub(super) fn precision(precision: &ReachedPrecision) -> String {
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
