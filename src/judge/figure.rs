//! One figure of two measurements.

use serde::Serialize;

use crate::measure::stats::Shift;

/// Whether a figure is worse than it was. The order is that of what weighs more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It's equal, better, or worse by no more than the margin.
    NoWorse,
    /// The measurements don't tell.
    CannotTell,
    /// It's worse by more than the margin.
    Worse,
}

impl Outcome {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::NoWorse => "no worse",
            Self::CannotTell => "can't be told",
            Self::Worse => "worse",
        }
    }
}

/// How a figure is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It's equal, or it isn't.
    Exact,
    /// Within a few percent it's equal.
    Memory,
    /// By the interval of its change.
    Overhead,
    /// Not at all.
    Time,
}

/// What a figure's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Numbers of things.
    Count,
    /// Bytes.
    Bytes,
    /// 2^20 bytes.
    Mebibytes,
    /// Percent.
    Percent,
    /// Seconds.
    Seconds,
}

/// One figure of two measurements.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// What it is.
    pub figure: &'static str,
    /// How it's compared.
    pub kind: Kind,
    /// The variant; `None` if it's about all of them.
    pub variant: Option<String>,
    /// The prompts; `None` if it's about all of them, or none.
    pub prompts: Option<String>,
    /// What its values are.
    pub unit: Unit,
    /// The older value; of several starts, their median.
    pub old: Option<f64>,
    /// The newer one.
    pub new: Option<f64>,
    /// The change in percent. That of an overhead is the change of the ratio of both times.
    pub change_pct: Option<f64>,
    /// The 95 % interval of `change_pct`.
    pub interval_pct: Option<[f64; 2]>,
    /// By how many percent it may be more.
    pub allowed_pct: Option<f64>,
    /// The probability of such a change if the true one were no more than the margin, corrected for
    /// all overheads that were compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p_corrected: Option<f64>,
    /// Whether the interval covers what differs between starts of a process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub covers_starts: Option<bool>,
    /// Whether it counts for the outcome of the whole comparison.
    pub decides: bool,
    /// What came of it.
    pub outcome: Outcome,
    /// It's not only no worse.
    pub better: bool,
    /// What's to know about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What the interval and the probability come from.
    #[serde(skip)]
    pub shift: Option<Shift>,
}

impl Figure {
    /// A figure of which nothing is known yet.
    pub(super) fn new(figure: &'static str, kind: Kind, unit: Unit) -> Self {
        Self {
            figure,
            kind,
            variant: None,
            prompts: None,
            unit,
            old: None,
            new: None,
            change_pct: None,
            interval_pct: None,
            allowed_pct: None,
            p_corrected: None,
            covers_starts: None,
            decides: true,
            outcome: Outcome::CannotTell,
            better: false,
            note: None,
            shift: None,
        }
    }

    /// With both values, and the change between them.
    pub(super) fn with_values(mut self, old: Option<f64>, new: Option<f64>) -> Self {
        (self.old, self.new) = (old, new);
        self.change_pct = match (old, new) {
            (Some(old), Some(new)) if old == new => Some(0.0),
            (Some(old), Some(new)) if old != 0.0 => Some((new / old - 1.0) * 100.0),
            _ => None,
        };
        self
    }
}
