//! What the options ask for. An option that can't be read ends the program, as clap does it.

use std::fmt::Display;

use clap::error::ErrorKind;

use super::{Format, View};
use crate::report::list::{Columns, Filter, Named, Order, Query, RowsOf};

impl View {
    pub(super) fn rows_of(&self) -> RowsOf {
        match self.overview {
            true => RowsOf::Results,
            false => RowsOf::Variants,
        }
    }

    /// The format that's asked for, or that the output's ending says.
    pub(super) fn format(&self) -> Format {
        let ending = self.output.extension().and_then(|of| of.to_str());
        self.format.unwrap_or(match ending {
            Some("md") => Format::Markdown,
            Some("csv") => Format::Csv,
            Some("jsonl") => Format::Jsonl,
            Some("html") => Format::Html,
            _ => Format::Table,
        })
    }

    /// Whether something is chosen that only a table of rows can show.
    pub(super) fn is_choosy(&self) -> bool {
        let lists = [&self.sort, &self.columns];
        let is_named = self.filter.is_some() || self.group_by.is_some();
        let has_more = self.overview || !self.quality.is_empty();
        has_more || is_named || lists.iter().any(|list| !list.is_empty())
    }

    /// What's asked of results.
    pub(super) fn query(&self, format: Format) -> Query {
        let rows = self.rows_of();
        let headings = rows.headings();
        if format == Format::Html {
            let chosen = [
                ("--overview", self.overview),
                ("--sort", !self.sort.is_empty()),
                ("--group-by", self.group_by.is_some()),
                ("--columns", !self.columns.is_empty()),
            ];
            if let Some((option, _)) = chosen.iter().find(|(_, is_given)| *is_given) {
                refuse(option, "has no meaning for a page, whose reader chooses");
            }
        }
        let named = |option: &str, name: &str| {
            let found = Named::find(&headings, name);
            found.unwrap_or_else(|error| refuse(option, error))
        };
        let filter = self.filter.as_deref().map(|text| {
            let found = Filter::parse(text, &headings);
            found.unwrap_or_else(|error| refuse("--filter", error))
        });
        let order = self.sort.iter().map(|text| {
            let (name, is_descending) = match text.rsplit_once(':') {
                Some((name, "desc")) => (name, true),
                Some((name, "asc")) => (name, false),
                Some((_, other)) => refuse(
                    "--sort",
                    format!("`{other}` is no order; there are `asc` and `desc`"),
                ),
                None => (text.as_str(), false),
            };
            Order {
                column: named("--sort", name.trim()),
                is_descending,
            }
        });
        let with_quality = ["usual", "quality", "quality_match"].map(str::to_owned);
        let names = match self.columns.as_slice() {
            [] if !self.quality.is_empty() && !matches!(format, Format::Csv | Format::Jsonl) => {
                &with_quality
            }
            names => names,
        };
        if self.overview && !self.quality.is_empty() {
            refuse("--overview", "has no columns for `--quality`");
        }
        let columns = match (names, format) {
            ([], Format::Csv | Format::Jsonl) => Columns::stored(rows),
            ([], Format::Table | Format::Markdown | Format::Html) => Columns::usual(rows),
            (names, _) => {
                let found = Columns::named(rows, names);
                found.unwrap_or_else(|error| refuse("--columns", error))
            }
        };
        Query {
            rows,
            columns,
            filter,
            order: order.collect(),
            group_by: self.group_by.as_deref().map(|of| named("--group-by", of)),
        }
    }
}

/// Ends the program as clap does where an option has a value that it can't have.
fn refuse(option: &str, why: impl Display) -> ! {
    let error = clap::Error::raw(ErrorKind::ValueValidation, format!("{option}: {why}\n"));
    error.exit()
}
