//! The page's data: what its script draws, and the results themselves, from which other formats can
//! be made again.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::packed::{pack as packed, unpack};
use super::{Named, ShownGroup, ShownRow};
use crate::files::text_named;
use crate::report::caveats::Caveat;
use crate::report::model::Report;
use crate::report::quality::Qualities;
use crate::report::table::{Scale, Unit, Value};
use crate::report::variants::{Better, VARIANTS, VariantColumn};
use thiserror::Error;

/// The version of the data's form. It goes up when a page's script or [`read_page`] couldn't read
/// older data.
const SCHEMA: u32 = 1;

/// What stands before and after the packed data.
const MARKS: [&str; 2] = [
    "<script type=\"application/octet-stream\" id=\"data\">",
    "</script>",
];

/// A page whose results can't be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadPageError {
    /// The system doesn't let it be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It's a page of something else.
    #[error("`{}` is not a page of peft-bench: there are no results in it", path.display())]
    NotAPage {
        /// The file.
        path: PathBuf,
    },
    /// The results in it can't be unpacked.
    #[error("the results in `{}` are damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The results in it have another form.
    #[error("the results in `{}` can't be read", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// Where, and what's wrong there.
        source: serde_json::Error,
    },
}

/// What the page's script reads.
#[derive(Serialize)]
struct Data<'a> {
    schema: u32,
    program: &'a str,
    made: &'a str,
    columns: Vec<Json>,
    groups: Vec<Json>,
    results: Vec<ResultData<'a>>,
}

#[derive(Serialize)]
struct ResultData<'a> {
    /// Its file, by which the address names it.
    name: &'a str,
    title: &'a str,
    document: &'a Report,
}

/// What's read again of a page.
#[derive(Deserialize)]
struct ReadData {
    results: Vec<ReadResult>,
}

#[derive(Deserialize)]
struct ReadResult {
    name: String,
    title: String,
    document: Report,
}

/// The data of a page, packed.
pub(super) fn pack(
    results: &[Named],
    groups: &[ShownGroup],
    program: &str,
    made: &str,
) -> Result<String, io::Error> {
    let has_quality = results.iter().any(|of| of.quality != Qualities::default());
    let results = results.iter().map(
        |Named {
             file, name, report, ..
         }| ResultData {
            name: file,
            title: name,
            document: report,
        },
    );
    let data = Data {
        schema: SCHEMA,
        program,
        made,
        columns: VARIANTS.iter().map(|of| column(of, has_quality)).collect(),
        groups: groups.iter().map(group).collect(),
        results: results.collect(),
    };
    packed(&serde_json::to_vec(&data)?)
}

/// The results in the page at `path`.
///
/// # Errors
/// If it can't be read, or isn't such a page.
pub fn read_page(path: &Path) -> Result<Vec<Named>, ReadPageError> {
    let own = || path.to_owned();
    let text = text_named(path).map_err(|source| ReadPageError::Read {
        path: own(),
        source,
    })?;
    let data = text
        .split_once(MARKS[0])
        .and_then(|(_, rest)| rest.split_once(MARKS[1]));
    let (data, _) = data.ok_or_else(|| ReadPageError::NotAPage { path: own() })?;
    let bytes = unpack(data.trim()).map_err(|source| ReadPageError::Damaged {
        path: own(),
        source,
    })?;
    let data: ReadData = serde_json::from_slice(&bytes).map_err(|source| ReadPageError::Form {
        path: own(),
        source,
    })?;
    let named = data.results.into_iter().map(|result| Named {
        file: result.name,
        name: result.title,
        report: result.document,
        quality: Qualities::default(),
    });
    Ok(named.collect())
}

fn column(column: &VariantColumn, has_quality: bool) -> Json {
    let heading = &column.heading;
    let kind = match heading.unit {
        Unit::Name | Unit::Text => "text",
        Unit::Count => "count",
        Unit::PercentWithInterval => "interval",
        Unit::Time(_)
        | Unit::Percent
        | Unit::Mebibytes
        | Unit::Joules
        | Unit::PerSecond
        | Unit::Ratio
        | Unit::Score => "number",
    };
    let (unit, _) = shown_unit(heading.unit);
    json!({
        "key": heading.key,
        "heading": heading.heading,
        "unit": unit,
        "meaning": heading.meaning,
        "kind": kind,
        "better": column.better.map(|better| match better {
            Better::Lower => "lower",
            Better::Higher => "higher",
        }),
        "shown": column.is_usual || (has_quality && heading.key == "quality"),
    })
}

/// The unit that the page shows, and by what values are multiplied for it.
pub(super) fn shown_unit(unit: Unit) -> (&'static str, f64) {
    match unit {
        Unit::Time(Scale::Milliseconds | Scale::Fitting) => ("ms", 1e3),
        other => (other.symbol(), 1.0),
    }
}

fn group(group: &ShownGroup) -> Json {
    let environment = group.environment.iter();
    json!({
        "title": group.title,
        "differs_by": group.differs_by,
        "environment": environment.map(|(name, value)| json!({ "name": name, "value": value })).collect::<Vec<_>>(),
        "rows": group.rows.iter().map(row).collect::<Vec<_>>(),
    })
}

fn row(shown: &ShownRow) -> Json {
    let cells = VARIANTS.iter().zip(&shown.cells).map(|(column, value)| {
        let (_, factor) = shown_unit(column.heading.unit);
        cell(value, factor)
    });
    json!({
        "result": shown.result,
        "variant": shown.row.variant.map(|(name, _)| name),
        "cells": cells.collect::<Vec<_>>(),
        "warnings": shown.caveats.iter().map(warning).collect::<Vec<_>>(),
    })
}

fn cell(value: &Value, factor: f64) -> Json {
    match value {
        Value::Missing => Json::Null,
        Value::Text(text) => Json::String(text.clone()),
        Value::Number(number) => json!(number * factor),
        Value::Estimate {
            value,
            interval,
            detected,
            is_taken_back,
            ..
        } => json!({
            "value": value * factor,
            "low": interval.map(|[low, _]| low * factor),
            "high": interval.map(|[_, high]| high * factor),
            "detected": detected,
            "taken_back": is_taken_back,
        }),
    }
}

fn warning(caveat: &Caveat) -> Json {
    json!({ "level": caveat.level, "short": caveat.short, "text": caveat.text })
}
