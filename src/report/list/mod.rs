//! Results as rows: chosen, sorted, and divided into groups that can be compared.
//!
//! ```text
//! Report ─ Query::rows ─▶ Listed ─┐
//! Report ─ Query::rows ─▶ Listed ─┴ Query::sections ─▶ Vec<Section> ─▶ terminal, Markdown, CSV, …
//! ```
//!
//! A [`Listed`] has a result's rows and what they may be compared with, and no runs. So thousands of
//! results need no more memory than their rows, if each is dropped once it's listed.

mod choice;
mod csv;
mod filter;
mod json_lines;
mod kind;
mod markdown;
mod names;
mod sections;
#[cfg(test)]
mod tests;

pub use choice::Columns;
pub use csv::csv;
pub use filter::{Filter, FilterError};
pub use json_lines::json_lines;
pub use kind::RowsOf;
pub use markdown::markdown;
pub use names::{Named, UnknownColumn};
pub use sections::{Listed, Order, Query, Section};
pub(crate) use sections::{about_estimates, begins_group, have_estimates};
