//! Whether an expression is true of a row.

use std::cmp::Ordering;

use super::{Comparison, Expression, Operand};
use crate::report::list::names::Cell;
use crate::report::table::Value;

impl Expression {
    pub(super) fn is_true_of(&self, row: &[Value]) -> bool {
        match self {
            Self::Any(of) => of.iter().any(|one| one.is_true_of(row)),
            Self::All(of) => of.iter().all(|one| one.is_true_of(row)),
            Self::Not(of) => !of.is_true_of(row),
            Self::Compare(left, how, right) => how.holds(left.cell(row), right.cell(row)),
            Self::Contains(column, part) => match column.cell(row) {
                Cell::Text(text) => text.to_lowercase().contains(part),
                Cell::Missing | Cell::Number(_) => false,
            },
            Self::In(column, values) => {
                let own = column.cell(row);
                let mut values = values.iter().map(|value| value.cell(row));
                values.any(|value| Comparison::Equal.holds(own, value))
            }
        }
    }
}

impl Operand {
    fn cell<'a>(&'a self, row: &'a [Value]) -> Cell<'a> {
        match self {
            Self::Column(column) => column.cell(row),
            Self::Text(text) => Cell::Text(text),
            Self::Number(number) => Cell::Number(*number),
            Self::None => Cell::Missing,
        }
    }
}

impl Comparison {
    /// What's missing equals only `none`, and is neither less nor more than anything.
    fn holds(self, left: Cell, right: Cell) -> bool {
        let order = match (left, right) {
            (Cell::Missing, Cell::Missing) => {
                return matches!(self, Self::Equal);
            }
            (Cell::Number(left), Cell::Number(right)) => left.partial_cmp(&right),
            (Cell::Text(left), Cell::Text(right)) => {
                Some(left.to_lowercase().cmp(&right.to_lowercase()))
            }
            _ => None,
        };
        match self {
            Self::Equal => order == Some(Ordering::Equal),
            Self::Unequal => order != Some(Ordering::Equal),
            Self::Less => order == Some(Ordering::Less),
            Self::LessOrEqual => order.is_some_and(Ordering::is_le),
            Self::Greater => order == Some(Ordering::Greater),
            Self::GreaterOrEqual => order.is_some_and(Ordering::is_ge),
        }
    }
}
