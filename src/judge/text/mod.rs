//! What's said of a comparison: to people in a terminal, in a comment on a change, and to programs.

mod cells;
mod json;
mod markdown;
mod table;

pub use json::json;
pub use markdown::markdown;
pub use table::table;

use super::{Comparison, Figure, Judgement, Kind, Outcome, Source};

/// The whole outcome in a sentence.
fn conclusion(judgement: &Judgement) -> String {
    let figures = || {
        let compared = judgement.comparisons.iter();
        compared
            .filter(|one| one.refusals.is_empty())
            .flat_map(|one| &one.figures)
            .filter(|figure| figure.decides)
    };
    let count = |outcome| figures().filter(|of| of.outcome == outcome).count();
    let all = figures().count();
    let refused = judgement.comparisons.iter();
    let refused = refused.filter(|one| !one.refusals.is_empty()).count();
    let mut parts = match (count(Outcome::Worse), count(Outcome::CannotTell)) {
        (_, _) if all == 0 => Vec::new(),
        (0, 0) => vec![format!("{all} figures")],
        (0, unknown) => vec![format!("{unknown} of {all} figures")],
        (worse, 0) => vec![format!("{worse} of {all} figures")],
        (worse, unknown) => vec![
            format!("{worse} of {all} figures"),
            format!("{unknown} can't be told"),
        ],
    };
    if refused > 0 {
        parts.push(format!("{refused} can't be compared"));
    }
    if !judgement.missing.is_empty() {
        parts.push(format!("{} missing", judgement.missing.len()));
    }
    let better = figures().filter(|figure| figure.better).count();
    if better > 0 {
        parts.push(format!("{better} are better"));
    }
    let outcome = judgement.outcome().words();
    format!("{outcome}: {}", parts.join("; "))
}

/// Figures that are equal to the last digit; they have one line together.
fn is_equal(figure: &Figure) -> bool {
    let is_same = figure.outcome == Outcome::NoWorse && !figure.better;
    figure.kind == Kind::Exact && is_same
}

/// When and by which program a side was measured.
fn origin(sources: &[Source]) -> String {
    let each = sources.iter().map(|source| {
        let run = &source.report.run_info;
        let packages = source.report.meta_info.package_info.as_ref();
        let program = packages.map_or(String::new(), |of| {
            let revision = of.peft_bench_git_revision.value();
            // Ten digits are enough to find it.
            let revision = revision.map_or(String::new(), |of| format!(" ({of:.10})"));
            format!(", peft-bench {}{revision}", of.peft_bench_version)
        });
        format!("{}{program}", run.timestamp)
    });
    let mut said: Vec<String> = each.collect();
    said.dedup();
    match said.as_slice() {
        [one] => one.clone(),
        several => format!("{} starts, the first {}", several.len(), several[0]),
    }
}

/// That the base, by which all overheads are taken, itself became slower.
fn slower_base(comparison: &Comparison, margin_pct: f64) -> Option<String> {
    let mut figures = comparison.figures.iter();
    let base = figures.find(|of| {
        of.kind == Kind::Time && of.variant.as_deref() == Some("base") && of.figure == "total time"
    })?;
    let [low, _] = base.interval_pct?;
    (low > margin_pct).then(|| {
        let change = cells::percent(base.change_pct);
        format!(
            "the base itself took {change} in NEW. An overhead can't show what slows the base as well: measure both programs in one session to tell the machine's state from a slower engine"
        )
    })
}

/// How to read it, in lines.
const LEGEND: [&str; 4] = [
    "An overhead's change is that of the ratio of a variant's time to the base's, run by run, with its 95 % interval.",
    "It's worse if the whole interval is above the margin, no worse if it's below, and can't be told otherwise.",
    "Times of two sessions differ by the machine's state and decide nothing; nor do figures in parentheses.",
    "Values of overheads and times are means over categories of prompts, each with the same weight.",
];
