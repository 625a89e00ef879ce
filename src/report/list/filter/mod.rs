//! Expressions that choose rows: `method == "LORA" and overhead < 5`.
//!
//! ```text
//! either     = both { "or" both }
//! both       = negated { "and" negated }
//! negated    = "not" negated | "(" either ")" | comparison
//! comparison = operand ( "==" | "!=" | "<" | "<=" | ">" | ">=" ) operand
//!            | column ( "~" | "!~" ) text
//!            | column [ "not" ] "in" "(" value { "," value } ")"
//! operand    = column | value
//! value      = text | number [ unit ] | "none"
//! ```
//!
//! Columns and values are checked against each other when the expression is read, so that one that
//! could never hold is refused. There's nothing in it that runs: no calls, no arithmetic.

mod error;
mod evaluate;
mod parse;
mod tokens;
mod units;

use crate::report::table::{Heading, Value};

pub use error::FilterError;

use super::names::Named;

/// An expression that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter(Expression);

/// What's true or false of a row.
#[derive(Debug, Clone, PartialEq)]
enum Expression {
    Any(Vec<Expression>),
    All(Vec<Expression>),
    Not(Box<Expression>),
    Compare(Operand, Comparison, Operand),
    /// The column's text has this in it, in lower case.
    Contains(Named, String),
    In(Named, Vec<Operand>),
}

/// One side of a comparison.
#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Column(Named),
    /// In lower case, since case makes no difference.
    Text(String),
    /// In the unit of the column that it's compared with.
    Number(f64),
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Filter {
    /// Reads `text`, an expression over columns of `headings`.
    ///
    /// # Errors
    /// If it isn't one.
    pub fn parse(text: &str, headings: &[&Heading]) -> Result<Self, FilterError> {
        parse::parse(text, headings).map(Self)
    }

    /// Whether it's true of `row`, which has a value for each column.
    pub fn admits(&self, row: &[Value]) -> bool {
        self.0.is_true_of(row)
    }

    /// The places of the columns that it names.
    pub(super) fn columns(&self) -> Vec<usize> {
        let mut places = Vec::new();
        self.0.add_columns(&mut places);
        places
    }
}

impl Expression {
    fn add_columns(&self, places: &mut Vec<usize>) {
        let mut add = |operand: &Operand| {
            if let Operand::Column(column) = operand {
                places.push(column.index);
            }
        };
        match self {
            Self::Any(of) | Self::All(of) => of.iter().for_each(|one| one.add_columns(places)),
            Self::Not(of) => of.add_columns(places),
            Self::Compare(left, _, right) => [left, right].into_iter().for_each(add),
            Self::Contains(column, _) => places.push(column.index),
            Self::In(column, values) => {
                values.iter().for_each(&mut add);
                places.push(column.index);
            }
        }
    }
}
