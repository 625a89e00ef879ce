//! What a row is of, and which columns there are.

use std::fmt::Write;

use crate::report::columns::OVERVIEW;
use crate::report::overview::OverviewRow;
use crate::report::table::{Heading, Unit, Value};
use crate::report::variants::{Source, VARIANTS, variant_rows};

/// What there's a row for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowsOf {
    /// Each variant of each result.
    Variants,
    /// Each result.
    Results,
}

impl RowsOf {
    /// All columns.
    pub fn headings(self) -> Vec<&'static Heading> {
        match self {
            Self::Variants => VARIANTS.iter().map(|column| &column.heading).collect(),
            Self::Results => OVERVIEW.iter().map(|column| &column.heading).collect(),
        }
    }

    /// The columns that a person sees if none are chosen.
    pub(super) fn usual(self) -> Vec<usize> {
        match self {
            // A page shows warnings in its own way.
            Self::Variants => places(
                |index| VARIANTS[index].is_usual || VARIANTS[index].heading.key == "warnings",
                VARIANTS.len(),
            ),
            Self::Results => (0..OVERVIEW.len()).collect(),
        }
    }

    /// The columns that a program reads if none are chosen: all that are read out of results rather
    /// than computed anew.
    pub(super) fn stored(self) -> Vec<usize> {
        match self {
            Self::Variants => places(|index| !VARIANTS[index].is_costly, VARIANTS.len()),
            Self::Results => self.usual(),
        }
    }

    /// Columns whose verdicts stand together: of variants, each by itself; of results, all of them,
    /// since they are of the variants.
    pub(in crate::report) fn families(self) -> Vec<Vec<usize>> {
        let headings = self.headings();
        let estimates = places(
            |index| headings[index].unit == Unit::PercentWithInterval,
            headings.len(),
        );
        match self {
            Self::Variants => estimates.into_iter().map(|place| vec![place]).collect(),
            Self::Results => vec![estimates],
        }
    }

    /// The rows of a result. Columns that aren't `wanted` stay empty.
    pub(super) fn rows(self, source: Source, wanted: &[bool]) -> Vec<Vec<Value>> {
        let cells = |value: &dyn Fn(usize) -> Value| {
            let all = wanted.iter().enumerate();
            all.map(|(index, wanted)| match wanted {
                true => value(index),
                false => Value::Missing,
            })
            .collect()
        };
        match self {
            Self::Variants => variant_rows(source)
                .iter()
                .map(|row| cells(&|index| (VARIANTS[index].value)(row)))
                .collect(),
            Self::Results => {
                let row = OverviewRow {
                    name: source.name.replacen("--", "/", 1),
                    report: source.report,
                };
                vec![cells(&|index| (OVERVIEW[index].value)(&row))]
            }
        }
    }

    /// All columns with their units and meanings, as text.
    pub fn help(self) -> String {
        let (headings, usual) = (self.headings(), self.usual());
        let width = |text: fn(&Heading) -> &str| {
            let all = headings.iter().map(|heading| text(heading).chars().count());
            all.max().unwrap_or(0)
        };
        let (keys, units) = (width(|of| of.key), width(|of| of.unit.symbol()));
        let mut text = String::new();
        for (index, heading) in headings.iter().enumerate() {
            let mark = if usual.contains(&index) { '*' } else { ' ' };
            let Heading {
                key, unit, meaning, ..
            } = heading;
            let unit = unit.symbol();
            let _ = writeln!(text, "{mark} {key:<keys$}  {unit:<units$}  {meaning}");
        }
        text.push_str(
            "\n*: shown if no columns are chosen. In --columns, `usual` stands for all of these, and `all` for every column.\n\
             In --filter and --sort, a column with an interval has its ends as KEY_low and KEY_high, and the unit at the end of\n\
             a key may be left out: `overhead` is `overhead_pct`.\n",
        );
        text
    }
}

fn places(is_in: impl Fn(usize) -> bool, count: usize) -> Vec<usize> {
    (0..count).filter(|&index| is_in(index)).collect()
}

/// Whether values of `unit` are numbers.
pub(super) fn is_number(unit: Unit) -> bool {
    !matches!(unit, Unit::Name | Unit::Text)
}
