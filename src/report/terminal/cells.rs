//! How a figure is written, and how columns are set.

use std::fmt::{Display, Write};

use crate::measure::stats::MIN_SAMPLES_TO_DETECT;
use crate::report::model::Overhead;
use crate::report::table::{Scale, Table, Unit, Value};

/// A cell without a figure.
pub(super) fn none() -> String {
    "–".to_owned()
}

/// An overhead.
pub(super) fn percent(pct: f64) -> String {
    format!("{pct:+.1} %")
}

/// An overhead's interval.
pub(super) fn interval(interval_pct: Option<[f64; 2]>) -> String {
    match interval_pct {
        Some([low, high]) => format!("{low:+.1} … {high:+.1} %"),
        None => none(),
    }
}

/// What follows from an overhead's interval, behind a dash; nothing where a difference was
/// detected.
pub(super) fn verdict(over: &Overhead) -> String {
    match (over.detected, over.enough()) {
        (true, _) => String::new(),
        (false, true) => " — no difference detected".to_owned(),
        (false, false) => format!(" — {}", too_few(over)),
    }
}

/// That an overhead comes from too few pairs, whatever its interval says.
pub(super) fn too_few(over: &Overhead) -> String {
    let what = if over.paired { "pairs" } else { "runs" };
    let fewest = over.fewest_pairs.unwrap_or(over.pairs);
    format!(
        "too few {what} to tell: {fewest} where {MIN_SAMPLES_TO_DETECT} are needed (`num_inference_runs`)"
    )
}

/// A time.
pub(super) fn milliseconds(seconds: Option<f64>) -> String {
    match seconds {
        None => none(),
        Some(seconds) if seconds < 1e-6 => "under 1 µs".to_owned(),
        Some(seconds) if seconds < 1e-3 => format!("{:.0} µs", seconds * 1e6),
        Some(seconds) if seconds < 0.1 => format!("{:.2} ms", seconds * 1e3),
        Some(seconds) => format!("{:.0} ms", seconds * 1e3),
    }
}

/// A model's memory.
fn mebibytes(mebibytes: f64) -> String {
    format!("{mebibytes:.0} MiB")
}

/// A whole number, with commas between thousands.
fn count(number: f64) -> String {
    spaced(&format!("{number:.0}"), ',')
}

/// An adapter's size.
pub(super) fn size(bytes: u64) -> String {
    match bytes >= 1 << 20 {
        true => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        false => format!("{:.1} KiB", bytes as f64 / 1024.0),
    }
}

/// Two significant digits, with spaces between thousands.
pub(super) fn rounded(count: f64) -> String {
    let digits = 10_f64.powf(count.max(1.0).log10().floor() - 1.0).max(1.0);
    spaced(
        &format!("{:.0}", (count / digits).round() * digits),
        '\u{202f}',
    )
}

/// Digits with `space` between thousands.
fn spaced(digits: &str, space: char) -> String {
    let mut spaced = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            spaced.push(space);
        }
        spaced.push(digit);
    }
    spaced
}

/// `name`, behind the experiment's `title` where there are several.
pub(super) fn named(title: &str, name: impl Display) -> String {
    match title {
        "" => name.to_string(),
        title => format!("{title} {name}"),
    }
}

/// Which estimates are marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marks {
    /// None of them.
    None,
    /// Those that weren't told from zero, with `~`.
    Undetected,
}

/// The table in columns as wide as their widest cell: names to the left, everything else to the
/// right. A number with an interval takes two columns.
pub(super) fn aligned(table: &Table, marks: Marks) -> String {
    let mut columns: Vec<(bool, Vec<String>)> = Vec::new();
    for (index, heading) in table.headings.iter().enumerate() {
        let values = table.rows.iter().map(|row| &row[index]);
        let cells = values.map(|value| cell(value, heading.unit, marks));
        let cells = std::iter::once(heading.heading.to_owned()).chain(cells);
        columns.push((heading.unit == Unit::Name, cells.collect()));
        if heading.unit == Unit::PercentWithInterval {
            let values = table.rows.iter().map(|row| &row[index]);
            let cells = std::iter::once("95 % interval".to_owned()).chain(values.map(bounds));
            columns.push((false, cells.collect()));
        }
    }
    let width = |cells: &[String]| cells.iter().map(|cell| cell.chars().count()).max();
    let mut text = String::new();
    for line in 0..=table.rows.len() {
        let cells = columns.iter().map(|(is_name, cells)| {
            let (cell, width) = (&cells[line], width(cells).unwrap_or(0));
            match is_name {
                true => format!("{cell:<width$}"),
                false => format!("{cell:>width$}"),
            }
        });
        let cells: Vec<String> = cells.collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

fn cell(value: &Value, unit: Unit, marks: Marks) -> String {
    match (value, unit) {
        (Value::Missing, _) => none(),
        (Value::Text(text), _) => text.clone(),
        (
            Value::Estimate {
                value, detected, ..
            },
            _,
        ) => {
            let mark = match (marks, detected) {
                (Marks::Undetected, false) => "~",
                _ => "",
            };
            format!("{mark}{}", percent(*value))
        }
        (&Value::Number(number), unit) => match unit {
            Unit::Time(Scale::Fitting) => milliseconds(Some(number)),
            Unit::Time(Scale::Milliseconds) => format!("{:.1} ms", number * 1e3),
            Unit::Time(Scale::Seconds) => format!("{number:.2} s"),
            Unit::Percent | Unit::PercentWithInterval => format!("{number:.0} %"),
            Unit::Mebibytes => mebibytes(number),
            Unit::Joules => format!("{number:.2} J"),
            Unit::Count => count(number),
            Unit::Name | Unit::Text => number.to_string(),
        },
    }
}

fn bounds(value: &Value) -> String {
    match value {
        Value::Estimate {
            interval: found, ..
        } => interval(*found),
        _ => none(),
    }
}
