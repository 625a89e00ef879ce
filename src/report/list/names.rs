//! What columns are called in options.

use thiserror::Error;

use super::kind::is_number;
use crate::json::check::{did_you_mean, nearest};
use crate::report::table::{Heading, Unit, Value};

/// Ends of keys that say the unit.
const UNITS: [&str; 4] = ["_pct", "_mb", "_seconds", "_joules"];

/// A column, or an end of its interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named {
    /// Its place among all columns.
    pub index: usize,
    /// What its values are.
    pub unit: Unit,
    /// Which number of a value with an interval.
    part: Part,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Value,
    Low,
    High,
}

/// A name that no column has.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "there is no column `{name}`{}; `--columns help` lists them",
    did_you_mean(nearest)
)]
pub struct UnknownColumn {
    /// The name.
    pub name: String,
    /// The column that's called most like it.
    pub nearest: Option<String>,
}

/// What a cell has for a comparison.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Cell<'a> {
    /// Nothing.
    Missing,
    /// Words.
    Text(&'a str),
    /// A number, in the column's unit.
    Number(f64),
}

impl Named {
    /// The column of `headings` that `name` means: its key, or the key without its unit; of one
    /// with an interval, the same with `_low` or `_high` after it.
    ///
    /// # Errors
    /// If there's none.
    pub fn find(headings: &[&Heading], name: &str) -> Result<Self, UnknownColumn> {
        let found = |name: &str, part: Part| {
            let index = headings
                .iter()
                .position(|heading| heading.key == name || short(heading.key) == name)?;
            Some(Self {
                index,
                unit: headings[index].unit,
                part,
            })
        };
        let end = |end: &str, part| {
            let found = found(name.strip_suffix(end)?, part)?;
            (found.unit == Unit::PercentWithInterval).then_some(found)
        };
        let found = found(name, Part::Value)
            .or_else(|| end("_low", Part::Low))
            .or_else(|| end("_high", Part::High));
        found.ok_or_else(|| {
            let keys = headings.iter().flat_map(|of| [of.key, short(of.key)]);
            UnknownColumn {
                name: name.to_owned(),
                nearest: nearest(name, &keys.collect::<Vec<_>>()),
            }
        })
    }

    /// Whether its values are numbers.
    pub fn is_number(self) -> bool {
        is_number(self.unit)
    }

    /// What a row has there.
    pub(super) fn cell(self, row: &[Value]) -> Cell<'_> {
        match (&row[self.index], self.part) {
            (Value::Missing, _) => Cell::Missing,
            (Value::Text(text), _) => Cell::Text(text),
            (Value::Number(number), _) => Cell::Number(*number),
            (Value::Estimate { value, .. }, Part::Value) => Cell::Number(*value),
            (Value::Estimate { interval, .. }, part) => match interval {
                Some([low, _]) if part == Part::Low => Cell::Number(*low),
                Some([_, high]) => Cell::Number(*high),
                None => Cell::Missing,
            },
        }
    }
}

/// `key` without its unit.
fn short(key: &str) -> &str {
    let mut units = UNITS.iter();
    units.find_map(|unit| key.strip_suffix(unit)).unwrap_or(key)
}
