//! Many results, one row for each variant that was measured.

mod columns;
mod paired;
mod row;

use super::comparable::written;
use super::model::{Report, Variant};
use super::quality::Qualities;
use super::table::{Heading, Value};

pub use columns::VARIANTS;

/// A result, where it's from, and what it's called.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// Its file.
    pub file: &'a str,
    /// `<method>--<name>`
    pub name: &'a str,
    /// The result.
    pub report: &'a Report,
    /// What's published of its configuration.
    pub quality: &'a Qualities,
}

/// A variant of a result.
#[derive(Debug, Clone, Copy)]
pub struct VariantRow<'a> {
    /// The result.
    pub source: Source<'a>,
    /// The variant; `None` if the run ended before any was measured.
    pub variant: Option<(&'a str, &'a Variant)>,
}

/// A column of the table of variants.
#[derive(Debug)]
pub struct VariantColumn {
    /// What it holds.
    pub heading: Heading,
    /// Which values are better.
    pub better: Option<Better>,
    /// Whether it's shown if nobody chooses columns.
    pub is_usual: bool,
    /// Whether a value takes milliseconds to compute, so that tables of thousands of results have
    /// it only if it's asked for.
    pub is_costly: bool,
    /// A row's value.
    pub value: fn(&VariantRow) -> Value,
}

/// Which of two values is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// The lower one.
    Lower,
    /// The higher one.
    Higher,
}

/// A row for each variant of a result, or one if there are none.
pub fn variant_rows(source: Source) -> Vec<VariantRow> {
    let row = |variant| VariantRow { source, variant };
    let all = source.report.generation_info.all_measured();
    let rows: Vec<VariantRow> = all.map(|found| row(Some(found))).collect();
    match rows.is_empty() {
        true => vec![row(None)],
        false => rows,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn columns_have_keys_of_their_own_and_are_in_the_docs() {
        let keys: BTreeSet<&str> = VARIANTS.iter().map(|of| of.heading.key).collect();
        assert_eq!(keys.len(), VARIANTS.len());
        let docs = include_str!("../../../docs/report.md");
        for VariantColumn { heading, .. } in VARIANTS {
            let Heading {
                key,
                heading: name,
                meaning,
                ..
            } = heading;
            let start = format!("| `{key}` | {name} |");
            let line = docs.lines().find(|line| line.starts_with(&start));
            let line = line.unwrap_or_else(|| panic!("docs/report.md has no line {start}"));
            assert!(line.ends_with(&format!("| {meaning} |")), "{line}");
        }
    }
}
