//! Rows as comma-separated values (RFC 4180): a line of keys, then a line for each row.
//!
//! Numbers are in their columns' units, unrounded. An estimate is three more columns: the ends of its
//! interval, and whether it was told from zero. The last two columns say which rows can be compared.
//!
//! Spreadsheets take a cell that begins with `=`, `+`, `-` or `@` for a formula, whatever quotes it
//! has. A text that begins so, or with a tab or a carriage return, gets an apostrophe in front, as
//! OWASP ("CSV injection") advises. Numbers stay as they are.

use super::sections::Section;
use crate::report::table::{Heading, Unit, Value};

/// The rows of all sections, which have the columns `headings`.
pub fn csv(headings: &[&Heading], sections: &[Section]) -> String {
    let mut text = String::new();
    let mut keys = Vec::new();
    for heading in headings {
        keys.push(heading.key.to_owned());
        if heading.unit == Unit::PercentWithInterval {
            keys.extend(["low", "high", "detected"].map(|end| format!("{}_{end}", heading.key)));
        }
    }
    keys.extend(["group", "differs_by"].map(str::to_owned));
    line(&mut text, &keys);
    for section in sections {
        for row in &section.table.rows {
            let mut fields = Vec::new();
            for (heading, value) in headings.iter().zip(row) {
                let count = match heading.unit {
                    Unit::PercentWithInterval => 4,
                    _ => 1,
                };
                add(&mut fields, value, count);
            }
            fields.push(section.group.to_string());
            fields.push(safe(&section.differs_by.join("; ")));
            line(&mut text, &fields);
        }
    }
    text
}

/// The `count` fields of a value.
fn add(fields: &mut Vec<String>, value: &Value, count: usize) {
    let end = fields.len() + count;
    match value {
        Value::Missing => {}
        Value::Text(text) => fields.push(safe(text)),
        Value::Number(number) => fields.push(self::number(*number)),
        Value::Estimate {
            value,
            interval,
            detected,
            ..
        } => {
            let [low, high] = match interval {
                Some(ends) => ends.map(number),
                None => [String::new(), String::new()],
            };
            fields.extend([number(*value), low, high, detected.to_string()]);
        }
    }
    fields.resize(end, String::new());
}

/// Nothing, where it isn't finite.
fn number(number: f64) -> String {
    match number.is_finite() {
        true => number.to_string(),
        false => String::new(),
    }
}

/// `text` as something that no spreadsheet computes.
fn safe(text: &str) -> String {
    match text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        true => format!("'{text}"),
        false => text.to_owned(),
    }
}

fn line(text: &mut String, fields: &[String]) {
    for (index, field) in fields.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        match field.contains([',', '"', '\r', '\n']) {
            true => {
                text.push('"');
                text.push_str(&field.replace('"', "\"\""));
                text.push('"');
            }
            false => text.push_str(field),
        }
    }
    text.push_str("\r\n");
}
