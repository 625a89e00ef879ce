//! Rows as Markdown: a table for each section, aligned in the source as well.

use std::fmt::Write;

use super::sections::{Section, about_estimates, begins_group, have_estimates};
use crate::report::terminal::cells::{Marks, TextColumn, columns, words};

/// A table for each section, with a heading where there are several groups, and `problems` with the
/// results in them.
pub fn markdown(sections: &[Section], problems: &[String]) -> String {
    let mut text = String::new();
    for (index, section) in sections.iter().enumerate() {
        if index > 0 {
            text.push('\n');
        }
        if begins_group(sections, index) {
            let title = escape(&section.title);
            let _ = writeln!(text, "### Group {}: {title}\n", section.group);
            if !section.differs_by.is_empty() {
                let differs_by = escape(&section.differs_by.join(", "));
                let _ = writeln!(text, "Not to be compared with group 1: {differs_by}.\n");
            }
        }
        if let Some((heading, value)) = &section.part {
            let value = escape(&words(value, heading.unit));
            let _ = writeln!(text, "**{}: {value}**\n", heading.heading);
        }
        table(&mut text, columns(&section.table, Marks::Undetected));
    }
    if have_estimates(sections) {
        text.push_str("\n`~`: no difference from the base was detected, or there are too few pairs to tell.\n");
        for about in about_estimates(sections) {
            let _ = writeln!(text, "\n{}.", capitalized(&escape(&about)));
        }
    }
    if !problems.is_empty() {
        text.push('\n');
    }
    for problem in problems {
        let _ = writeln!(text, "- {}", escape(problem));
    }
    text
}

fn table(text: &mut String, mut columns: Vec<TextColumn>) {
    for column in &mut columns {
        for cell in &mut column.cells {
            *cell = escape(cell);
        }
        let rule = match column.is_left {
            true => "---".to_owned(),
            false => "---:".to_owned(),
        };
        column.cells.insert(1, rule);
    }
    let widths: Vec<usize> = columns.iter().map(TextColumn::width).collect();
    let lines = columns.first().map_or(0, |column| column.cells.len());
    for line in 0..lines {
        for (column, &width) in columns.iter().zip(&widths) {
            let cell = &column.cells[line];
            let _ = match (line, column.is_left) {
                (1, true) => write!(text, "| {cell:-<width$} "),
                (1, false) => write!(text, "| {cell:->width$} "),
                (_, true) => write!(text, "| {cell:<width$} "),
                (_, false) => write!(text, "| {cell:>width$} "),
            };
        }
        text.push_str("|\n");
    }
}

/// With an upper-case letter at its beginning.
fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_uppercase().chain(characters).collect(),
        None => String::new(),
    }
}

/// `text` without a character that Markdown, or HTML in it, takes for anything else.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        match character {
            '\\' | '|' | '*' | '`' | '[' | ']' => {
                escaped.push('\\');
                escaped.push(character);
            }
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '\r' | '\n' => escaped.push(' '),
            _ => escaped.push(character),
        }
    }
    escaped
}
