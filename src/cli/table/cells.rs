//! How a figure is written, and how columns are set.

use std::fmt::{Display, Write};

use crate::measure::prompt_group::PromptGroup;
use crate::measure::record::SubjectRecord;
use crate::measure::stats::{MIN_SAMPLES_TO_DETECT, Overhead};

/// A cell without a figure.
pub(super) fn none() -> String {
    "–".to_owned()
}

/// An overhead.
pub(super) fn percent(over: &Overhead) -> String {
    format!("{:+.1} %", over.pct)
}

/// An overhead's interval.
pub(super) fn interval(over: &Overhead) -> String {
    match over.interval_pct {
        Some([low, high]) => format!("{low:+.1} … {high:+.1} %"),
        None => none(),
    }
}

/// What follows from an overhead's interval, behind a dash; nothing where a difference was detected.
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
    format!(
        "too few {what} to tell: {} where {MIN_SAMPLES_TO_DETECT} are needed (`num_inference_runs`)",
        over.fewest_pairs
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

/// The peak while generating from prompts of `group`.
pub(super) fn peak(record: &SubjectRecord, group: PromptGroup) -> String {
    let name = group.to_string();
    let stage = record.stages.iter().find(|stage| stage.stage == name);
    stage.map_or_else(none, |stage| {
        mebibytes(stage.peak_accelerator_bytes.unwrap_or(stage.peak_rss_bytes))
    })
}

/// A model's memory.
pub(super) fn mebibytes(bytes: u64) -> String {
    format!("{:.0} MiB", bytes as f64 / 1_048_576.0)
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

/// `name`, behind the experiment's `title` where there are several.
pub(super) fn named(title: &str, name: impl Display) -> String {
    match title {
        "" => name.to_string(),
        title => format!("{title} {name}"),
    }
}

/// Columns as wide as their widest cell: the first ones, of names, to the left, and numbers to the right.
pub(super) fn aligned(rows: &[Vec<String>], names: usize) -> String {
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
