//! How a figure is written, and how columns are set.

use std::fmt::{Display, Write};

use crate::measure::stats::MIN_SAMPLES_TO_DETECT;
use crate::report::model::Overhead;
use crate::report::table::{Scale, Table, Unit, Value};

/// A cell without a figure.
pub(crate) fn none() -> String {
    "–".to_owned()
}

/// An overhead.
pub(crate) fn percent(pct: f64) -> String {
    format!("{pct:+.1} %")
}

/// An overhead's interval.
pub(crate) fn interval(interval_pct: Option<[f64; 2]>) -> String {
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
pub(crate) fn count(number: f64) -> String {
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
pub(in crate::report) enum Marks {
    /// None of them.
    None,
    /// Those that weren't told from zero, with `~`.
    Undetected,
}

/// A column as text: its heading, and a cell for each row.
pub(in crate::report) struct TextColumn {
    /// Whether it's set to the left.
    pub is_left: bool,
    /// The heading first.
    pub cells: Vec<String>,
}

impl TextColumn {
    /// The widest cell's number of characters.
    pub fn width(&self) -> usize {
        let widths = self.cells.iter().map(|cell| cell.chars().count());
        widths.max().unwrap_or(0)
    }
}

/// The table's columns: words to the left, numbers to the right. A number with an interval takes
/// two columns.
pub(in crate::report) fn columns(table: &Table, marks: Marks) -> Vec<TextColumn> {
    let mut columns = Vec::new();
    for (index, heading) in table.headings.iter().enumerate() {
        let column = |name: &str, cell: &dyn Fn(&Value) -> String| {
            let cells = table.rows.iter().map(|row| cell(&row[index]));
            TextColumn {
                is_left: matches!(heading.unit, Unit::Name | Unit::Text),
                cells: std::iter::once(name.to_owned()).chain(cells).collect(),
            }
        };
        columns.push(column(heading.heading, &|value| {
            cell(value, heading.unit, marks)
        }));
        if heading.unit == Unit::PercentWithInterval {
            columns.push(column("95 % interval", &bounds));
        }
    }
    columns
}

/// The table in columns as wide as their widest cell.
pub(super) fn aligned(table: &Table, marks: Marks) -> String {
    let columns: Vec<(TextColumn, usize)> = columns(table, marks)
        .into_iter()
        .map(|column| {
            let width = column.width();
            (column, width)
        })
        .collect();
    let mut text = String::new();
    for line in 0..=table.rows.len() {
        let cells = columns.iter().map(|(column, width)| {
            let cell = &column.cells[line];
            match column.is_left {
                true => format!("{cell:<width$}"),
                false => format!("{cell:>width$}"),
            }
        });
        let cells: Vec<String> = cells.collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

/// A value in words, as tables show it.
pub(in crate::report) fn words(value: &Value, unit: Unit) -> String {
    cell(value, unit, Marks::None)
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
            // Steps of tiny models are shorter than a tenth.
            Unit::Time(Scale::Milliseconds) if number < 1e-3 => format!("{:.3} ms", number * 1e3),
            Unit::Time(Scale::Milliseconds) => format!("{:.1} ms", number * 1e3),
            Unit::Time(Scale::Seconds) => format!("{number:.2} s"),
            Unit::Percent | Unit::PercentWithInterval => format!("{number:.0} %"),
            Unit::Mebibytes => mebibytes(number),
            Unit::Joules => format!("{number:.2} J"),
            Unit::PerSecond => format!("{number:.1}"),
            Unit::Score => format!("{number:.3}"),
            Unit::Ratio => format!("{number:.0e}"),
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
