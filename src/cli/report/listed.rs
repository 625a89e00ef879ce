//! Results as rows. Each file is dropped once its rows are made, so that thousands of results need
//! little memory.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Error, Result};

use super::files::{Found, place, read};
use super::{Format, Shown};
use crate::cli::progress::message;
use crate::report::list::{Listed, Query, csv, json_lines, markdown};
use crate::report::quality::Published;
use crate::report::{Status, terminal};

/// The rows of a result.
struct Item {
    /// By what results are sorted.
    name: String,
    file: PathBuf,
    /// `None` if no row is chosen.
    listed: Option<Listed>,
    /// What's wrong with the run, in a line.
    problem: Option<String>,
}

/// The results in `files` as `format`; `None` if none can be read.
pub(super) fn listed(
    files: &[PathBuf],
    query: &Query,
    published: &Published,
    format: Format,
    errors: &mut Vec<Error>,
) -> Option<Shown> {
    let mut items = Vec::new();
    for read in items_of(files, query, published) {
        match read {
            Ok(found) => items.extend(found),
            Err(error) => errors.push(error),
        }
    }
    if items.is_empty() {
        return None;
    }
    items.sort_by(|one, other| place(&one.name, &one.file).cmp(&place(&other.name, &other.file)));
    let results = items.len();
    let (mut listed, mut problems) = (Vec::new(), Vec::new());
    for item in items {
        if let Some(rows) = item.listed {
            listed.push(rows);
            problems.extend(item.problem);
        }
    }
    if listed.is_empty() {
        message(&format!(
            "note: --filter lets no row of {results} results through"
        ));
    }
    let shown = listed.len();
    let sections = query.sections(listed);
    let text = match format {
        Format::Csv => csv(&query.headings(), &sections),
        Format::Jsonl => json_lines(&sections),
        Format::Markdown => markdown(&sections, &problems),
        Format::Table | Format::Html => {
            let mut text = terminal::sections(&sections, query.rows);
            for problem in problems {
                text.push_str(&format!("{problem}\n"));
            }
            text
        }
    };
    Some(Shown {
        text,
        results: shown,
    })
}

/// What each file comes to, in their order. All cores read.
fn items_of(files: &[PathBuf], query: &Query, published: &Published) -> Vec<Result<Vec<Item>>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(file) = files.get(index) else {
                return done;
            };
            let found = read(file, published);
            let items =
                found.map(|found| found.iter().map(|found| Item::of(found, query)).collect());
            done.push((index, items));
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut all: Vec<(usize, Result<Vec<Item>>)> = thread::scope(|scope| {
        let workers: Vec<_> = (1..cores.min(files.len()))
            .map(|_| scope.spawn(work))
            .collect();
        let own = work();
        let others = workers.into_iter().flat_map(|worker| match worker.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        own.into_iter().chain(others).collect()
    });
    all.sort_by_key(|(index, _)| *index);
    all.into_iter().map(|(_, items)| items).collect()
}

impl Item {
    fn of(found: &Found, query: &Query) -> Self {
        let run = &found.report.run_info;
        let how = match run.status {
            Status::Success => None,
            Status::Failed => Some("failed"),
            Status::Cancelled => Some("was cancelled"),
        };
        let name = found.name.replacen("--", "/", 1);
        Self {
            listed: found.with_source(|source| query.rows(source)),
            problem: how.map(|how| {
                let why = run.error.as_deref().unwrap_or("it doesn't say why");
                format!("{name} {how}: {why}")
            }),
            name,
            file: found.file.clone(),
        }
    }
}
