//! Two measurements of the same target: is the newer one worse?
//!
//! ```text
//! sides      files and folders become pairs of the same target
//! refusal    what makes a pair not comparable, or doubtful
//! figures    exact      counts and sizes: equal, or not
//!            memory     peaks: within 2 %, or not
//!            overhead   a variant's time over its own base's, with an interval
//!            times      absolute times: shown, and never decisive
//! starts     the starts that a side's results hold
//! holm       many overheads together
//! text       the table, Markdown and JSON
//! ```
//!
//! Every figure has one of three outcomes: no worse, worse, or can't be told. A machine is quicker
//! at one time than at another, by more than most changes are worth, so times are only compared as
//! ratios to the base that was measured in turn with them.

mod exact;
mod figure;
mod holm;
mod memory;
mod overhead;
mod refusal;
mod sides;
mod starts;
pub mod text;
mod times;

use std::path::PathBuf;

pub use figure::{Figure, Kind, Outcome, Unit};
pub use sides::{Pairs, Side, SideError, pairs};

use crate::report::model::Report;

/// A result file.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// Where it is.
    pub file: PathBuf,
    /// What it holds.
    pub report: Report,
}

/// Results of one target, older and newer. Several results of a side are starts of the same
/// measurement, and each may hold several starts of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// `<method>/<name>`
    pub name: String,
    /// The older results.
    pub old: Vec<Source>,
    /// The newer ones.
    pub new: Vec<Source>,
}

/// What came of comparing a pair.
#[derive(Debug)]
pub struct Comparison {
    /// What was compared.
    pub pair: Pair,
    /// Why it can't be compared; empty if it can.
    pub refusals: Vec<String>,
    /// What makes it doubtful, or is worth knowing.
    pub warnings: Vec<String>,
    /// All figures; none if it can't be compared.
    pub figures: Vec<Figure>,
}

/// What came of comparing all of them.
#[derive(Debug)]
pub struct Judgement {
    /// By how much a time may be more, in percent.
    pub margin_pct: f64,
    /// Each pair.
    pub comparisons: Vec<Comparison>,
    /// Why some results have no counterpart, or couldn't be read. They can't be told.
    pub missing: Vec<String>,
    /// Targets that only the newer side has.
    pub only_new: Vec<String>,
}

impl Judgement {
    /// Compares `pairs`. A time is worse if it's more than `margin_pct` percent above the older
    /// one.
    pub fn new(pairs: Pairs, margin_pct: f64) -> Self {
        let margin = (margin_pct / 100.0).ln_1p();
        let comparisons = pairs.pairs.into_iter().map(|pair| compare(pair, margin));
        let mut comparisons: Vec<Comparison> = comparisons.collect();
        let all = comparisons.iter_mut().flat_map(|one| &mut one.figures);
        holm::decide(all.collect(), margin);
        Self {
            margin_pct,
            comparisons,
            missing: pairs.missing,
            only_new: pairs.only_new,
        }
    }

    /// Whether anything is worse; if nothing is, whether everything could be told.
    pub fn outcome(&self) -> Outcome {
        let outcomes = self.comparisons.iter().map(Comparison::outcome);
        let missing = self.missing.iter().map(|_| Outcome::CannotTell);
        outcomes.chain(missing).max().unwrap_or(Outcome::CannotTell)
    }
}

impl Comparison {
    /// Whether a figure that decides is worse; if none is, whether all could be told.
    pub fn outcome(&self) -> Outcome {
        if !self.refusals.is_empty() {
            return Outcome::CannotTell;
        }
        let deciding = self.figures.iter().filter(|figure| figure.decides);
        let worst = deciding.map(|figure| figure.outcome).max();
        worst.unwrap_or(Outcome::CannotTell)
    }
}

fn compare(pair: Pair, margin: f64) -> Comparison {
    let refusals = refusal::refusals(&pair);
    let warnings = refusal::warnings(&pair);
    let mut figures = Vec::new();
    if refusals.is_empty() {
        figures.extend(exact::figures(&pair));
        figures.extend(memory::figures(&pair));
        figures.extend(overhead::figures(&pair, margin));
        figures.extend(times::figures(&pair));
    }
    Comparison {
        pair,
        refusals,
        warnings,
        figures,
    }
}

impl Pair {
    /// Names of the variants that were measured on both sides, in order.
    fn variants(&self) -> Vec<&str> {
        let (Some(old), Some(new)) = (self.old.first(), self.new.first()) else {
            return Vec::new();
        };
        let all = new.report.generation_info.all_measured();
        all.map(|(name, _)| name)
            .filter(|name| old.report.generation_info.measured(name).is_some())
            .collect()
    }
}

/// The results of a side.
fn reports(side: &[Source]) -> impl Iterator<Item = &Report> {
    side.iter().map(|source| &source.report)
}
