//! Markdown that fits into a comment on a change: what decides in view, the rest to unfold.

use std::fmt::Write;

use super::cells::{HEADINGS, row};
use super::{LEGEND, conclusion, is_equal, origin, slower_base};
use crate::judge::{Comparison, Figure, Judgement};

/// A section for each pair, below the outcome.
pub fn markdown(judgement: &Judgement) -> String {
    let mut text = format!("### peft-bench: {}\n", escaped(&conclusion(judgement)));
    for missing in &judgement.missing {
        let _ = write!(text, "\n- **missing**: {}", escaped(missing));
    }
    for name in &judgement.only_new {
        let _ = write!(text, "\n- new: {}", escaped(name));
    }
    if !judgement.missing.is_empty() || !judgement.only_new.is_empty() {
        text.push('\n');
    }
    for comparison in &judgement.comparisons {
        one(&mut text, comparison, judgement.margin_pct);
    }
    let _ = write!(
        text,
        "\n<sub>Margin of times {} %. {}</sub>\n",
        judgement.margin_pct,
        LEGEND.join(" ")
    );
    text
}

fn one(text: &mut String, comparison: &Comparison, margin_pct: f64) {
    let pair = &comparison.pair;
    let outcome = match comparison.refusals.is_empty() {
        true => comparison.outcome().words(),
        false => "not comparable",
    };
    let _ = writeln!(text, "\n#### {}: {outcome}\n", escaped(&pair.name));
    let slower = slower_base(comparison, margin_pct);
    let said = comparison.refusals.iter().map(|why| ("refused", why));
    let warnings = comparison.warnings.iter().chain(&slower);
    let said: Vec<_> = said.chain(warnings.map(|what| ("warning", what))).collect();
    for (level, what) in &said {
        let _ = writeln!(text, "- **{level}**: {}", escaped(what));
    }
    if comparison.figures.is_empty() {
        return;
    }
    if !said.is_empty() {
        text.push('\n');
    }
    let (deciding, others): (Vec<&Figure>, Vec<&Figure>) = comparison
        .figures
        .iter()
        .partition(|figure| figure.decides && !is_equal(figure));
    rows(text, &deciding);
    let equal = others.iter().filter(|figure| is_equal(figure)).count();
    let _ = writeln!(
        text,
        "\n<details><summary>{equal} exact figures are equal; categories and times</summary>\n"
    );
    let _ = writeln!(
        text,
        "OLD {}; NEW {}\n",
        escaped(&origin(&pair.old)),
        escaped(&origin(&pair.new))
    );
    rows(text, &others);
    text.push_str("\n</details>\n");
}

fn rows(text: &mut String, figures: &[&Figure]) {
    if figures.is_empty() {
        return;
    }
    let _ = writeln!(text, "| {} |", HEADINGS.join(" | "));
    text.push_str("| --- | --- | --- | --: | --: | --: | --: | --- |\n");
    for figure in figures {
        let cells = row(figure).map(|cell| escaped(&cell));
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
}

/// Names come out of files, and may hold anything.
fn escaped(text: &str) -> String {
    let mut safe = String::new();
    for character in text.chars() {
        match character {
            '\n' | '\r' => safe.push(' '),
            '<' => safe.push_str("&lt;"),
            '&' => safe.push_str("&amp;"),
            '\\' | '|' | '*' | '[' | ']' | '~' | '#' | '@' => {
                safe.push('\\');
                safe.push(character);
            }
            _ => safe.push(character),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_files_is_no_markup() {
        assert_eq!(
            escaped("<b>|x|\n# @user [a](b)"),
            "&lt;b>\\|x\\| \\# \\@user \\[a\\](b)"
        );
    }
}
