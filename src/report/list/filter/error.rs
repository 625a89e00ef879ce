//! What's wrong with an expression, and where.

use thiserror::Error;

use crate::report::list::names::UnknownColumn;

/// An expression that can't be read.
#[derive(Debug, Clone, PartialEq, Error)]
#[error("at character {position} of `{text}`: {problem}")]
pub struct FilterError {
    /// The expression.
    pub text: String,
    /// Where, in characters from 1.
    pub position: usize,
    /// What's wrong there.
    pub problem: Problem,
}

/// What's wrong.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum Problem {
    /// No column is called so.
    #[error("{0}; text needs quotes")]
    UnknownColumn(UnknownColumn),
    /// Something else should be here.
    #[error("expected {expected}, found {found}")]
    Unexpected {
        /// What should be here.
        expected: &'static str,
        /// What is.
        found: String,
    },
    /// A text doesn't end.
    #[error("this text has no closing {0}")]
    OpenText(char),
    /// No expression has such a character.
    #[error("`{0}` means nothing here")]
    Character(char),
    /// A number that can't be read.
    #[error("`{0}` is not a number")]
    Number(String),
    /// The two sides are of different kinds.
    #[error("`{column}` has {has}, and can't be compared with {with}")]
    Kinds {
        /// The column.
        column: String,
        /// What it has.
        has: &'static str,
        /// What it's compared with.
        with: &'static str,
    },
    /// A time could be in seconds, or in milliseconds as tables show it.
    #[error("`{column}` is a time, so the number needs a unit, as in `{number} ms`")]
    NoUnit {
        /// The column.
        column: String,
        /// The number.
        number: f64,
    },
    /// A number of something else.
    #[error("`{column}` isn't measured in `{unit}`; it takes {takes}")]
    Unit {
        /// The column.
        column: String,
        /// The unit.
        unit: String,
        /// Those that it takes.
        takes: &'static str,
    },
    /// Only texts can be searched.
    #[error("`{0}` has numbers, and `~` searches text")]
    NotText(String),
    /// Nothing of a row is asked.
    #[error("neither side is a column, so this is the same of all rows")]
    NoColumn,
    /// More parentheses or `not`s than anybody writes.
    #[error("this is nested too deeply")]
    Depth,
}
