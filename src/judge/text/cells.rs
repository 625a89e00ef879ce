//! How values are written.

use crate::judge::{Figure, Kind, Outcome, Unit};
use crate::report::terminal::cells::{self, none};

pub(super) const HEADINGS: [&str; 8] = [
    "figure", "variant", "prompts", "old", "new", "change", "interval", "outcome",
];

/// The cells of a figure's row.
pub(super) fn row(figure: &Figure) -> [String; 8] {
    [
        figure.figure.to_owned(),
        figure.variant.clone().unwrap_or_else(none),
        figure.prompts.clone().unwrap_or_else(none),
        value(figure.old, figure.unit),
        value(figure.new, figure.unit),
        percent(figure.change_pct),
        interval(figure),
        outcome(figure),
    ]
}

/// A change.
pub(super) fn percent(pct: Option<f64>) -> String {
    match pct {
        None => none(),
        Some(0.0) => "0 %".to_owned(),
        Some(pct) if pct.abs() < 0.05 => format!("{pct:+.2} %"),
        Some(pct) => cells::percent(pct),
    }
}

fn interval(figure: &Figure) -> String {
    match (figure.kind, figure.interval_pct, figure.allowed_pct) {
        (Kind::Exact, ..) => "exact".to_owned(),
        (Kind::Memory, _, Some(allowed)) => format!("{allowed:.0} % allowed"),
        (_, ends, _) => cells::interval(ends),
    }
}

fn outcome(figure: &Figure) -> String {
    if figure.kind == Kind::Time {
        return "not judged".to_owned();
    }
    let words = match (figure.outcome, figure.better) {
        (Outcome::NoWorse, true) => "better",
        (outcome, _) => outcome.words(),
    };
    let words = match &figure.note {
        Some(note) => format!("{words}: {note}"),
        None => words.to_owned(),
    };
    match figure.decides {
        true => words,
        false => format!("({words})"),
    }
}

fn value(value: Option<f64>, unit: Unit) -> String {
    let Some(value) = value else {
        return none();
    };
    match unit {
        Unit::Count | Unit::Bytes if value.fract() == 0.0 => cells::count(value),
        Unit::Count | Unit::Bytes => format!("{value:.1}"),
        Unit::Mebibytes => format!("{value:.1} MiB"),
        Unit::Percent => cells::percent(value),
        Unit::Seconds if value < 0.1 => format!("{:.2} ms", value * 1e3),
        Unit::Seconds => format!("{:.0} ms", value * 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_units() {
        assert_eq!(value(Some(1_234_567.0), Unit::Count), "1,234,567");
        assert_eq!(value(Some(13.5), Unit::Count), "13.5");
        assert_eq!(value(Some(0.0123), Unit::Seconds), "12.30 ms");
        assert_eq!(value(Some(-3.21), Unit::Percent), "-3.2 %");
        assert_eq!(value(None, Unit::Bytes), "–");
        assert_eq!(percent(Some(0.01)), "+0.01 %");
        assert_eq!(percent(Some(0.0)), "0 %");
    }
}
