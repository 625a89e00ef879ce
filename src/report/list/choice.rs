//! Which columns are shown.

use super::kind::RowsOf;
use super::names::{Named, UnknownColumn};

/// The columns to show, by their places among all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns(pub(super) Vec<usize>);

impl Columns {
    /// Those that a person sees.
    pub fn usual(rows: RowsOf) -> Self {
        Self(rows.usual())
    }

    /// Those that a program reads.
    pub fn stored(rows: RowsOf) -> Self {
        Self(rows.stored())
    }

    /// The named ones, in their order. `usual` and `all` stand for several.
    ///
    /// # Errors
    /// If there's no column of a name.
    pub fn named(rows: RowsOf, names: &[String]) -> Result<Self, UnknownColumn> {
        let headings = rows.headings();
        let mut places: Vec<usize> = Vec::new();
        for name in names {
            let found = match name.trim() {
                "usual" => rows.usual(),
                "all" => (0..headings.len()).collect(),
                name => vec![Named::find(&headings, name)?.index],
            };
            for place in found {
                if !places.contains(&place) {
                    places.push(place);
                }
            }
        }
        Ok(Self(places))
    }
}
