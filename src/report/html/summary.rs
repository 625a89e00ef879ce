//! The results as markup, for readers without JavaScript, and before it has run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::data::shown_unit;
use super::escape::escape;
use super::{ShownGroup, ShownRow};
use crate::report::caveats::{Caveat, Level};
use crate::report::table::{Unit, Value};
use crate::report::variants::{VARIANTS, VariantColumn};

/// Each group's environment, warnings and table, and what columns mean.
pub(super) fn summary(groups: &[ShownGroup]) -> String {
    let mut text = String::new();
    for group in groups {
        let title = match group.title.as_str() {
            "" => "Results",
            title => title,
        };
        let _ = writeln!(text, "<section>\n<h2>{}</h2>", escape(title));
        if !group.differs_by.is_empty() {
            let differs = escape(&group.differs_by.join(", "));
            let _ = writeln!(
                text,
                "<p>Not to be compared with the first group, from which it differs by {differs}.</p>"
            );
        }
        environment(&mut text, group);
        warnings(&mut text, group);
        table(&mut text, group);
        text.push_str("</section>\n");
    }
    text.push_str("<section>\n<h2>What the columns mean</h2>\n<dl class=\"meanings\">\n");
    for column in usual() {
        let (heading, meaning) = (heading(column), escape(column.heading.meaning));
        let _ = writeln!(text, "<dt>{heading}</dt><dd>{meaning}</dd>");
    }
    text.push_str("</dl>\n</section>");
    text
}

fn usual() -> impl Iterator<Item = &'static VariantColumn> {
    VARIANTS.iter().filter(|column| column.is_usual)
}

/// The usual columns of a row, with their values.
fn usual_of<'a>(shown: &'a ShownRow) -> impl Iterator<Item = (&'static VariantColumn, &'a Value)> {
    let all = VARIANTS.iter().zip(&shown.cells);
    all.filter(|(column, _)| column.is_usual)
}

fn heading(column: &VariantColumn) -> String {
    let heading = escape(column.heading.heading);
    match shown_unit(column.heading.unit).0 {
        "" => heading,
        unit => format!("{heading} <span class=\"unit\">{unit}</span>"),
    }
}

fn environment(text: &mut String, group: &ShownGroup) {
    text.push_str("<dl class=\"facts\">\n");
    for (name, value) in &group.environment {
        let (name, value) = (escape(name), escape(value));
        let _ = writeln!(text, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    }
    text.push_str("</dl>\n");
}

/// One line for each kind of caveat, with the results that it's about, and the reasons of bad ones;
/// with the sentence where it's the same for all.
fn warnings(text: &mut String, group: &ShownGroup) {
    let mut kinds: BTreeMap<(Level, &str), Vec<String>> = BTreeMap::new();
    let mut sentences: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for row in &group.rows {
        for caveat in &row.caveats {
            let all = sentences.entry(caveat.short).or_default();
            all.insert(caveat.text.as_str());
            let name = row.row.short_name();
            let about = match caveat.level {
                Level::Bad => format!("{name} ({})", caveat.text),
                Level::Warn | Level::Note => name.to_owned(),
            };
            let all = kinds.entry((caveat.level, caveat.short)).or_default();
            if !all.contains(&about) {
                all.push(about);
            }
        }
    }
    if kinds.is_empty() {
        return;
    }
    text.push_str("<ul class=\"warnings\">\n");
    for ((level, short), all) in kinds {
        let class = class(level);
        let all = escape(&all.join(", "));
        let mut sentence = String::new();
        if level != Level::Bad
            && let Some(sentences) = sentences.get(short).filter(|all| all.len() == 1)
        {
            sentence.extend(sentences.iter().map(|one| format!(". {}", escape(one))));
        }
        let _ = writeln!(
            text,
            "<li class=\"warning {class}\"><strong>{short}</strong>: {all}{sentence}</li>"
        );
    }
    text.push_str("</ul>\n");
}

fn table(text: &mut String, group: &ShownGroup) {
    text.push_str("<div class=\"scroll\"><table class=\"results\">\n<thead><tr>");
    for column in usual() {
        let _ = write!(
            text,
            "<th scope=\"col\"{}>{}</th>",
            alignment(column.heading.unit),
            heading(column)
        );
    }
    text.push_str("</tr></thead>\n<tbody>\n");
    for shown in &group.rows {
        row(text, shown);
    }
    text.push_str("</tbody></table></div>\n");
}

fn row(text: &mut String, shown: &ShownRow) {
    let bad = shown
        .caveats
        .iter()
        .any(|caveat| caveat.level == Level::Bad);
    text.push_str(if bad {
        "<tr class=\"doubtful\">"
    } else {
        "<tr>"
    });
    for (place, (column, value)) in usual_of(shown).enumerate() {
        let value = escape(&cell(value, column.heading.unit));
        let _ = match place {
            0 => write!(
                text,
                "<th scope=\"row\">{value} {}</th>",
                badges(&shown.caveats)
            ),
            _ => write!(text, "<td{}>{value}</td>", alignment(column.heading.unit)),
        };
    }
    text.push_str("</tr>\n");
}

fn badges(caveats: &[Caveat]) -> String {
    let badge = |caveat: &Caveat| {
        let (class, about) = (class(caveat.level), escape(&caveat.text));
        format!(
            "<span class=\"badge {class}\" title=\"{about}\">{}</span>",
            caveat.short
        )
    };
    caveats.iter().map(badge).collect()
}

fn class(level: Level) -> &'static str {
    match level {
        Level::Bad => "bad",
        Level::Warn => "warn",
        Level::Note => "note",
    }
}

fn alignment(unit: Unit) -> &'static str {
    match unit {
        Unit::Name | Unit::Text => " class=\"text\"",
        _ => " class=\"number\"",
    }
}

fn cell(value: &Value, unit: Unit) -> String {
    let (_, factor) = shown_unit(unit);
    let text = match value {
        Value::Missing => "–".to_owned(),
        Value::Text(text) => text.clone(),
        Value::Number(number) => match unit {
            Unit::Count => format!("{number:.0}"),
            _ => significant(number * factor),
        },
        Value::Estimate {
            value, interval, ..
        } => match interval {
            Some([low, high]) => format!("{value:+.1} [{low:+.1} … {high:+.1}]"),
            None => format!("{value:+.1}"),
        },
    };
    // A minus sign, as wide as the digits.
    match value {
        Value::Text(_) => text,
        _ => text.replace('-', "\u{2212}"),
    }
}

/// Three significant digits, or all before the point.
fn significant(number: f64) -> String {
    let digits = number.abs().log10().floor();
    let decimals = if digits.is_finite() {
        (2.0 - digits).clamp(0.0, 6.0)
    } else {
        0.0
    };
    format!("{number:.*}", decimals as usize)
}
