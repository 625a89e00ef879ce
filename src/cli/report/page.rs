//! Results as a page.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context, Error, Result};

use super::Shown;
use super::files::{Found, place, read};
use crate::report::html::{self, Named};
use crate::report::list::Query;
use crate::report::quality::Published;

/// The page of the results in `files` of which a row is chosen; `None` if there are none.
pub(super) fn page(
    files: &[PathBuf],
    query: &Query,
    published: &Published,
    errors: &mut Vec<Error>,
) -> Result<Option<Shown>> {
    let mut found = Vec::new();
    for file in files {
        match read(file, published) {
            Ok(results) => found.extend(results),
            Err(error) => errors.push(error),
        }
    }
    if found.is_empty() {
        return Ok(None);
    }
    found.retain(|one| one.with_source(|source| query.rows(source)).is_some());
    found.sort_by(|one, other| place(&one.name, &one.file).cmp(&place(&other.name, &other.file)));
    let results = found.len();
    let named = named(found);
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let text = html::page(&named, &now).context("cannot pack the results")?;
    Ok(Some(Shown { text, results }))
}

/// The results under short names: folders are told only where names aren't enough.
fn named(found: Vec<Found>) -> Vec<Named> {
    let short = |found: &Found| match found.file.file_name() {
        Some(name) => name.to_string_lossy().into_owned(),
        None => found.file.display().to_string(),
    };
    let mut same: BTreeMap<String, usize> = BTreeMap::new();
    for one in &found {
        *same.entry(short(one)).or_default() += 1;
    }
    let named = found.into_iter().map(|one| Named {
        file: match same[&short(&one)] {
            1 => short(&one),
            _ => one.file.display().to_string(),
        },
        name: one.name,
        report: one.report,
        quality: one.quality,
    });
    named.collect()
}
