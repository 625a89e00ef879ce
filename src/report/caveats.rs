//! Reasons to distrust a result's figures, or to read them with care.

mod environment;
mod gpu;

use serde::Serialize;

use super::model::{
    AdapterInfo, AdapterWeights, BaseSource, Overhead, Parity, Report, Status, Variant,
};
use crate::engine::StepGraph;
use crate::measure::prompt_group::PromptGroup;
use crate::measure::stats::MIN_SAMPLES_TO_DETECT;

/// Waits for the disk in a run that are no sign of weights that don't stay in memory.
const WAITS_PER_RUN: u64 = 20;

/// How much a caveat weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The figures are missing, or aren't what they claim to be.
    Bad,
    /// They may be off.
    Warn,
    /// They're right, and something is to be known about them.
    Note,
}

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caveat {
    /// How much it weighs.
    pub level: Level,
    /// Two or three words for it.
    pub short: &'static str,
    /// A sentence.
    pub text: String,
    /// The variant whose figures it's about; `None` if it's about all of them.
    pub variant: Option<String>,
}

impl Caveat {
    fn of_all(level: Level, short: &'static str, text: String) -> Self {
        Self {
            level,
            short,
            text,
            variant: None,
        }
    }
}

/// The warnings about the machine on which `report` was measured.
pub fn machine_warnings(report: &Report) -> impl Iterator<Item = String> {
    let found = environment::reasons(report).into_iter();
    found.filter_map(|(level, _, text)| (level == Level::Warn).then_some(text))
}

/// All caveats about `report`, the weightiest first.
pub fn caveats(report: &Report) -> Vec<Caveat> {
    let mut found = of_the_run(report);
    for (name, variant) in report.generation_info.all_measured() {
        let of_it = of_a_variant(name, variant).into_iter();
        found.extend(of_it.map(|(level, short, text)| Caveat {
            variant: Some(name.to_owned()),
            ..Caveat::of_all(level, short, text)
        }));
    }
    found.sort_by_key(|caveat| caveat.level);
    found
}

fn of_the_run(report: &Report) -> Vec<Caveat> {
    let (run, info) = (&report.run_info, &report.generation_info);
    let mut found = Vec::new();
    let mut add = |level, short, text| found.push(Caveat::of_all(level, short, text));
    let why = || {
        run.error
            .as_deref()
            .unwrap_or("it doesn't say why")
            .to_owned()
    };
    match run.status {
        Status::Success => {}
        Status::Failed => add(Level::Bad, "failed", format!("The run failed: {}", why())),
        Status::Cancelled => add(
            Level::Bad,
            "cancelled",
            format!("The run was cancelled: {}", why()),
        ),
    }
    if let Some(Parity { failures, .. }) = info.parity.value().filter(|parity| !parity.passed) {
        let failures = failures.join("; ");
        let text = format!(
            "The parity check failed, so these times are not of the same model: {failures}"
        );
        add(Level::Bad, "parity failed", text);
    }
    if let Some(tokens) = info.timed_tokens.value() {
        if !tokens.differences.is_empty() {
            let text = format!(
                "These times are not of what was checked: {}",
                tokens.differences.join("; ")
            );
            add(Level::Bad, "other tokens", text);
        }
        if !tokens.unsteady.is_empty() {
            let text = tokens.unsteady.join("; ");
            add(Level::Warn, "unsteady tokens", text);
        }
    }
    if run.fewer_draws == Some(true) {
        let text = "Intervals are of 1,000 draws in place of 10,000: the program was asked to end when everything was measured";
        add(Level::Note, "fewer draws", text.to_owned());
    }
    if let Some(drift) = info.drift.value().filter(|drift| drift.drifting) {
        add(Level::Warn, "drift", drift.sentence());
    }
    if let Some(found) = run.interference.value().filter(|found| found.disturbed) {
        let (all, steal) = (
            found.other_processes_share + found.steal_share,
            found.steal_share,
        );
        let text = format!(
            "Others took {:.0} % of the cores' time while this ran ({:.0} points of it went to other virtual machines); \
             `--quiet-gate 60s` waits until the machine is quiet",
            all * 100.0,
            steal * 100.0
        );
        add(Level::Warn, "disturbed", text);
    }
    if let Some(aa) = info.aa.value().filter(|aa| !aa.contains_zero) {
        let [low, high] = aa.interval_pct.unwrap_or_default();
        let text = format!(
            "The base differs from itself by {low:+.1} … {high:+.1} %, so something favours one of two equal processes"
        );
        add(Level::Warn, "base unlike itself", text);
    }
    if let Some(precision) = run
        .target_precision
        .value()
        .filter(|precision| !precision.met)
    {
        let text = format!(
            "The precision of ±{} % that was asked for was not reached",
            precision.target_pct
        );
        add(Level::Warn, "imprecise", text);
    }
    if let Some(layers) = run.session.gpu_layers {
        let text = format!(
            "Only the first {layers} layers were on the GPU, and the others were computed on the CPU: these aren't times of a GPU \
             that has room for all of them"
        );
        add(Level::Warn, "layers on the CPU", text);
    }
    if matches!(run.session.base, BaseSource::Cached) {
        let text = "The base was measured earlier, not in turn with the variants, so the machine's state is in the overheads";
        add(Level::Warn, "earlier base", text.to_owned());
    }
    for (name, entry) in info.variants.iter() {
        if let Some(reason) = entry.absent() {
            add(
                Level::Note,
                "not available",
                format!("{name} is not available: {reason}"),
            );
        }
    }
    for (level, short, text) in environment::reasons(report) {
        add(level, short, text);
    }
    let adapter = report.meta_info.adapter.value().copied();
    if adapter.map(AdapterInfo::weights) == Some(AdapterWeights::Fresh) {
        let text = "The adapter's weights were drawn, not trained: its cost is that of a trained one, and what it generates means nothing";
        add(Level::Note, "fresh adapter", text.to_owned());
    }
    found
}

fn of_a_variant(name: &str, variant: &Variant) -> Vec<(Level, &'static str, String)> {
    let mut found = Vec::new();
    if let Some(error) = &variant.error {
        found.push((
            Level::Bad,
            "variant failed",
            format!("{name} ended early: {error}"),
        ));
    }
    if let Some(over) = variant.overall_overhead().filter(|over| !over.enough()) {
        found.push((Level::Warn, "too few pairs", too_few(name, over)));
    }
    if let Some(StepGraph::Refused(reason)) = &variant.cuda_graph {
        let text = format!("The decode steps of {name} are no CUDA graph: {reason}");
        found.push((Level::Warn, "no CUDA graph", text));
    }
    let cold = variant
        .samples()
        .filter(|of| of.outliers.slow_first_run)
        .count();
    if cold > 0 {
        let text = format!(
            "The first run of {cold} prompts was slow with {name}; warming up may have been too short"
        );
        found.push((Level::Warn, "slow first run", text));
    }
    if let Some(text) = waits_for_disk(name, variant) {
        found.push((Level::Warn, "waits for the disk", text));
    }
    for part in variant.not_lowered.iter().flatten() {
        found.push((Level::Note, "slower form", format!("{name}: {part}")));
    }
    let runs: usize = variant.samples().map(|of| of.individual_runs.len()).sum();
    let outliers: usize = variant.samples().map(|of| of.outliers.indices.len()).sum();
    if outliers > 0 {
        let text =
            format!("{outliers} of {runs} runs of {name} are far from the others of their prompt");
        found.push((Level::Note, "outliers", text));
    }
    found
}

/// A sentence if steps waited for weights to be read from a disk, again and again.
pub(super) fn waits_for_disk(name: &str, variant: &Variant) -> Option<String> {
    let runs: usize = variant.samples().map(|of| of.individual_runs.len()).sum();
    let stages = variant.memory.memory_logs.iter();
    let of_prompts = stages.filter(|stage| PromptGroup::from_name(&stage.stage).is_some());
    let waits: u64 = of_prompts.filter_map(|stage| stage.disk_waits).sum();
    // What a first prompt reads stays in memory where there's room for it.
    (waits > WAITS_PER_RUN * runs.max(1) as u64).then(|| {
        format!(
            "Steps of {name} waited for the disk {waits} times in {runs} runs: its weights don't stay in memory, so these are times of the disk"
        )
    })
}

fn too_few(name: &str, over: &Overhead) -> String {
    let what = if over.paired { "pairs" } else { "runs" };
    let fewest = over.fewest_pairs.unwrap_or(over.pairs);
    format!(
        "Too few {what} of {name} to tell a difference: {fewest} where {MIN_SAMPLES_TO_DETECT} are needed"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::record::scripted as record;
    use crate::measure::subject::Subject;
    use crate::measure::timed_tokens::TimedTokens;
    use crate::report::build::scripted::report;
    use crate::report::model::Maybe;

    fn shorts(report: &Report) -> Vec<&'static str> {
        caveats(report).iter().map(|caveat| caveat.short).collect()
    }

    #[test]
    fn a_good_result_raises_none() {
        let records = [record(Subject::Base, 1), record(Subject::Unmerged, 2)];
        let mut found = report(&records, &[], None);
        found.generation_info.drift = Maybe::Null;
        assert_eq!(caveats(&found), []);
    }

    #[test]
    fn a_drift_and_tokens_that_were_not_checked_are_doubts() {
        // The records' runs take a millisecond more each time.
        let mut found = report(&[record(Subject::Base, 1)], &[], None);
        assert_eq!(shorts(&found), ["drift"]);
        found.generation_info.timed_tokens = Maybe::Value(TimedTokens {
            differences: vec!["`merged` is another".to_owned()],
            unsteady: vec!["`base` changes".to_owned()],
            ..TimedTokens::default()
        });
        assert_eq!(shorts(&found), ["other tokens", "unsteady tokens", "drift"]);
    }

    #[test]
    fn a_bad_one_says_what_is_wrong_and_of_which_variant() {
        let mut unmerged = record(Subject::Unmerged, 2);
        unmerged.runs.retain(|run| run.run < 2);
        unmerged.error = Some("killed".to_owned());
        let mut found = report(&[record(Subject::Base, 1), unmerged], &[], None);
        found.run_info.status = Status::Failed;
        found.run_info.error = Some("no memory".to_owned());
        found.run_info.session.base = BaseSource::Cached;
        assert_eq!(
            shorts(&found),
            [
                "failed",
                "variant failed",
                "drift",
                "earlier base",
                "too few pairs"
            ]
        );
        let all = caveats(&found);
        assert!(all[0].text.ends_with("no memory") && all[0].variant.is_none());
        assert_eq!(all[1].variant.as_deref(), Some("unmerged"));
    }
}
