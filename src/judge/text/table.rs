//! Text for a terminal.

use std::fmt::Write;

use super::cells::{HEADINGS, row};
use super::{LEGEND, conclusion, is_equal, origin, slower_base};
use crate::judge::{Comparison, Figure, Judgement};

/// Columns of names, which are set to the left.
const NAMES: [bool; 8] = [true, true, true, false, false, false, false, true];

/// A table for each pair, and the outcome. `verbose` adds figures that are equal.
pub fn table(judgement: &Judgement, verbose: bool) -> String {
    let mut text = String::new();
    for comparison in &judgement.comparisons {
        one(&mut text, comparison, judgement.margin_pct, verbose);
    }
    for missing in &judgement.missing {
        let _ = writeln!(text, "missing  {missing}");
    }
    for name in &judgement.only_new {
        let _ = writeln!(text, "new      {name}: OLD has no result of it");
    }
    if judgement
        .comparisons
        .iter()
        .any(|one| !one.figures.is_empty())
    {
        let _ = writeln!(text, "margin of times {} %", judgement.margin_pct);
        let _ = writeln!(text, "{}", LEGEND.join("\n"));
    }
    let _ = writeln!(text, "\n{}", conclusion(judgement));
    text
}

fn one(text: &mut String, comparison: &Comparison, margin_pct: f64, verbose: bool) {
    let pair = &comparison.pair;
    let outcome = match comparison.refusals.is_empty() {
        true => comparison.outcome().words(),
        false => "not comparable",
    };
    let _ = writeln!(text, "{}: {outcome}", pair.name);
    for (side, sources) in [("OLD", &pair.old), ("NEW", &pair.new)] {
        let _ = writeln!(text, "{side}      {}", origin(sources));
    }
    for refusal in &comparison.refusals {
        let _ = writeln!(text, "refused  {refusal}");
    }
    let slower = slower_base(comparison, margin_pct);
    for warning in comparison.warnings.iter().chain(&slower) {
        let _ = writeln!(text, "warning  {warning}");
    }
    let equal = comparison.figures.iter().filter(|of| is_equal(of)).count();
    if equal > 0 && !verbose {
        let _ = writeln!(text, "exact    {equal} figures are equal");
    }
    let shown = |figure: &&Figure| verbose || !is_equal(figure);
    let rows: Vec<[String; 8]> = comparison.figures.iter().filter(shown).map(row).collect();
    if !rows.is_empty() {
        text.push('\n');
        aligned(text, &rows);
    }
    text.push('\n');
}

fn aligned(text: &mut String, rows: &[[String; 8]]) {
    let headings = HEADINGS.map(str::to_owned);
    let lines = || std::iter::once(&headings).chain(rows);
    let widths: Vec<usize> = (0..HEADINGS.len())
        .map(|column| {
            let cells = lines().map(|line| line[column].chars().count());
            cells.max().unwrap_or(0)
        })
        .collect();
    for line in lines() {
        let cells = line.iter().zip(&widths).zip(NAMES);
        let cells = cells.map(|((cell, &width), is_name)| match is_name {
            true => format!("{cell:<width$}"),
            false => format!("{cell:>width$}"),
        });
        let cells: Vec<String> = cells.collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
}
