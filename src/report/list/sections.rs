//! Rows of results, divided into tables.

use std::cmp::Ordering;

use super::choice::Columns;
use super::filter::Filter;
use super::kind::RowsOf;
use super::names::{Cell, Named};
use crate::measure::stats::MIN_STARTS;
use crate::report::comparable::{Conditions, Group, groups_of, titles};
use crate::report::many::{correct, counts};
use crate::report::table::{Heading, Table, Unit, Value};
use crate::report::variants::Source;

/// What's asked of results.
#[derive(Debug)]
pub struct Query {
    /// What there's a row for.
    pub rows: RowsOf,
    /// The columns to show.
    pub columns: Columns,
    /// Which rows; `None` for all.
    pub filter: Option<Filter>,
    /// By what rows are sorted, the first above all. Rows that are equal keep their order.
    pub order: Vec<Order>,
    /// A column by whose values groups are divided further.
    pub group_by: Option<Named>,
}

/// A column to sort by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// The column.
    pub column: Named,
    /// Whether the highest value comes first. What's missing comes last in any case.
    pub is_descending: bool,
}

/// The rows of a result that a filter let through.
#[derive(Debug)]
pub struct Listed {
    conditions: Conditions,
    rows: Vec<Vec<Value>>,
}

/// A table of results that can be compared.
#[derive(Debug)]
pub struct Section {
    /// The number of the group of results that can be compared, from 1.
    pub group: usize,
    /// How many such groups there are.
    pub groups: usize,
    /// What the group is called; empty if there's one.
    pub title: String,
    /// By what it differs from the first group.
    pub differs_by: Vec<String>,
    /// The column by which it's divided further, and the value that this part has.
    pub part: Option<(&'static Heading, Value)>,
    /// Its rows.
    pub table: Table,
}

impl Query {
    /// The rows of `source`; `None` if the filter lets none through.
    pub fn rows(&self, source: Source) -> Option<Listed> {
        let mut rows = self.rows.rows(source, &self.wanted());
        rows.retain(|row| self.filter.as_ref().is_none_or(|filter| filter.admits(row)));
        (!rows.is_empty()).then(|| Listed {
            conditions: Conditions::of(source.report),
            rows,
        })
    }

    /// Whether each column is needed.
    fn wanted(&self) -> Vec<bool> {
        let used = self.filter.iter().flat_map(Filter::columns);
        let used = used.chain(self.order.iter().map(|order| order.column.index));
        let used = used.chain(self.group_by.map(|column| column.index));
        let mut wanted = vec![false; self.rows.headings().len()];
        for index in used.chain(self.columns.0.iter().copied()) {
            wanted[index] = true;
        }
        wanted
    }

    /// All rows, with those that can be compared together, the largest group first.
    pub fn sections(&self, results: Vec<Listed>) -> Vec<Section> {
        let (conditions, rows): (Vec<Conditions>, Vec<Vec<Vec<Value>>>) = results
            .into_iter()
            .map(|Listed { conditions, rows }| (conditions, rows))
            .unzip();
        let mut rows: Vec<Option<Vec<Vec<Value>>>> = rows.into_iter().map(Some).collect();
        let groups = groups_of(&conditions);
        let titles = titles(&groups);
        let mut sections = Vec::new();
        for (index, (group, title)) in groups.iter().zip(titles).enumerate() {
            let own = group.results.iter().filter_map(|&place| rows[place].take());
            let mut own: Vec<Vec<Value>> = own.flatten().collect();
            if group.results.len() > 1 {
                correct(&mut own, &self.rows.families());
            }
            own.sort_by(|one, other| self.compare(one, other));
            for (part, rows) in self.parts(own) {
                sections.push(Section {
                    group: index + 1,
                    groups: groups.len(),
                    title: title.clone(),
                    differs_by: differences(group, &groups[0]),
                    part,
                    table: self.table(rows),
                });
            }
        }
        sections
    }

    /// Parts come before any order within them.
    fn compare(&self, one: &[Value], other: &[Value]) -> Ordering {
        let parts = self.group_by.map(|column| Order {
            column,
            is_descending: false,
        });
        let by = |order: &Order| order.compare(one, other);
        let mut all = parts.iter().chain(&self.order).map(by);
        all.find(|found| found.is_ne()).unwrap_or(Ordering::Equal)
    }

    /// Sorted rows, divided by the value of the column that divides them.
    fn parts(&self, mut rows: Vec<Vec<Value>>) -> Vec<Part> {
        let Some(column) = self.group_by else {
            return vec![(None, rows)];
        };
        let heading = self.rows.headings()[column.index];
        let mut parts = Vec::new();
        while let Some(first) = rows.first() {
            let value = first[column.index].clone();
            let is_other = |row: &Vec<Value>| row[column.index] != value;
            let same = rows.iter().position(is_other).unwrap_or(rows.len());
            let rest = rows.split_off(same);
            parts.push((Some((heading, value)), std::mem::replace(&mut rows, rest)));
        }
        parts
    }

    /// The columns to show.
    pub fn headings(&self) -> Vec<&'static Heading> {
        let all = self.rows.headings();
        self.columns.0.iter().map(|&index| all[index]).collect()
    }

    fn table(&self, rows: Vec<Vec<Value>>) -> Table {
        let shown = |mut row: Vec<Value>| {
            let values = self.columns.0.iter();
            values
                .map(|&index| std::mem::replace(&mut row[index], Value::Missing))
                .collect()
        };
        Table {
            headings: self.headings(),
            rows: rows.into_iter().map(shown).collect(),
        }
    }
}

/// Whether a heading for its group stands above the section at `index`: it's the group's first
/// part, and there are several groups.
pub(crate) fn begins_group(sections: &[Section], index: usize) -> bool {
    let section = &sections[index];
    let is_first_part = index == 0 || sections[index - 1].group != section.group;
    is_first_part && section.groups > 1
}

/// Whether a column has estimates, of which some may be marked.
pub(crate) fn have_estimates(sections: &[Section]) -> bool {
    let mut headings = sections.iter().flat_map(|section| &section.table.headings);
    headings.any(|heading| heading.unit == Unit::PercentWithInterval)
}

/// What's to know of the estimates of all sections, a sentence each.
pub(crate) fn about_estimates(sections: &[Section]) -> Vec<String> {
    let rows = || sections.iter().flat_map(|section| &section.table.rows);
    let mut said = Vec::new();
    let (tested, taken_back) = counts(rows());
    if taken_back > 0 {
        said.push(format!(
            "{taken_back} of {tested} overheads would be told from zero by themselves, but not among the others of their table \
             (Holm's correction)"
        ));
    }
    let few = rows().flatten().any(|value| match value {
        Value::Estimate {
            starts: Some(starts),
            interval: Some(_),
            ..
        } => *starts < MIN_STARTS,
        _ => false,
    });
    if few {
        said.push(format!(
            "intervals of fewer than {MIN_STARTS} starts leave out what differs from one start of a process to the next \
             (column `starts`; `measure --restarts 5` covers it)"
        ));
    }
    said
}

/// A value of the column that divides rows, and its rows.
type Part = (Option<(&'static Heading, Value)>, Vec<Vec<Value>>);

impl Order {
    fn compare(&self, one: &[Value], other: &[Value]) -> Ordering {
        match (self.column.cell(one), self.column.cell(other)) {
            (Cell::Missing, Cell::Missing) => Ordering::Equal,
            (Cell::Missing, _) => Ordering::Greater,
            (_, Cell::Missing) => Ordering::Less,
            (one, other) if self.is_descending => ascending(other, one),
            (one, other) => ascending(one, other),
        }
    }
}

fn differences(group: &Group, first: &Group) -> Vec<String> {
    group.conditions.differences(&first.conditions)
}

fn ascending(one: Cell, other: Cell) -> Ordering {
    match (one, other) {
        (Cell::Number(one), Cell::Number(other)) => one.total_cmp(&other),
        (Cell::Text(one), Cell::Text(other)) => one.cmp(other),
        // A column has values of one kind.
        _ => Ordering::Equal,
    }
}
