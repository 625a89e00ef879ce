//! Files and folders become pairs of results of the same target.
//!
//! A side is a result, a folder of results, or a folder of such folders. Each of the latter is a
//! start: the same measurement, with all processes started anew.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{Pair, Source};
use crate::files::is_special;
use crate::report::comparable::Conditions;
use crate::report::{self, target_name};

/// A side that can't be looked into.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
pub enum SideError {
    #[error("cannot read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("there are no results in `{}`", path.display())]
    Empty { path: PathBuf },
}

/// What is to be compared.
#[derive(Debug, Default)]
pub struct Pairs {
    /// Results of the same target.
    pub pairs: Vec<Pair>,
    /// Results that have no newer counterpart, and files that can't be read, with the reason.
    pub missing: Vec<String>,
    /// Targets that only the newer side has.
    pub only_new: Vec<String>,
}

/// What stands on one side of a comparison.
#[derive(Debug)]
pub struct Side {
    place: Place,
    /// Those of each configuration.
    series: Vec<Series>,
    /// Why some of its files can't be read.
    problems: Vec<String>,
}

/// Where a side comes from.
#[derive(Debug)]
enum Place {
    /// One file.
    File,
    /// A folder that holds all there is.
    Folder(PathBuf),
    /// It was just measured, and the other side may hold more.
    JustMeasured,
}

/// The starts of one configuration, and what its target is called.
#[derive(Debug)]
struct Series {
    name: String,
    file_name: String,
    sources: Vec<Source>,
}

impl Side {
    /// The side at `path`.
    ///
    /// # Errors
    /// If it's a folder that can't be read, or has no results.
    pub fn read(path: &Path) -> Result<Self, SideError> {
        let (mut sources, mut problems) = (Vec::new(), Vec::new());
        for file in files(path)? {
            match report::read(&file) {
                Ok(report) => sources.push(Source { file, report }),
                Err(error) => problems.push(with_causes(&error)),
            }
        }
        let place = match path.is_dir() {
            true => Place::Folder(path.to_owned()),
            false => Place::File,
        };
        Ok(Self {
            place,
            series: series(sources),
            problems,
        })
    }

    /// Results that were just measured.
    pub fn just_measured(sources: Vec<Source>) -> Self {
        Self {
            place: Place::JustMeasured,
            series: series(sources),
            problems: Vec::new(),
        }
    }

    /// Why there's nothing to compare with, if there isn't.
    pub fn nothing(&self) -> Option<String> {
        self.series.is_empty().then(|| self.problems.join("; "))
    }
}

/// Finds what belongs together on both sides.
pub fn pairs(old: Side, new: Side) -> Pairs {
    let mut found = Pairs {
        missing: [old.problems, new.problems].concat(),
        ..Pairs::default()
    };
    let pair = |old: Series, new: Series| Pair {
        name: new.name,
        old: old.sources,
        new: new.sources,
    };
    let is_chosen = matches!(old.place, Place::File) && new.series.len() <= 1;
    let mut rest = new.series;
    for old in old.series {
        // A file was chosen, so it belongs to the other whatever they're called.
        let index = match is_chosen && !matches!(new.place, Place::Folder(_)) {
            true => (!rest.is_empty()).then_some(0),
            false => counterpart(&old, &rest),
        };
        match (index, &new.place) {
            (Some(index), _) => found.pairs.push(pair(old, rest.remove(index))),
            (None, Place::Folder(folder)) => found.missing.push(gone(&old, folder)),
            (None, Place::File | Place::JustMeasured) => {}
        }
    }
    found.only_new = rest.into_iter().map(|new| new.name).collect();
    found
}

/// The newer results of the same configuration: that of the same file name, else the one that can
/// be compared, else the only one of the same target.
fn counterpart(old: &Series, all: &[Series]) -> Option<usize> {
    let by = |agrees: &dyn Fn(&Series) -> bool| {
        let mut found = all.iter().enumerate().filter(|(_, new)| agrees(new));
        let first = found.next().map(|(index, _)| index);
        first.filter(|_| found.next().is_none())
    };
    let conditions = |series: &Series| {
        let first = series.sources.first();
        first.map(|source| Conditions::strict(&source.report))
    };
    let can_be_compared = |new: &Series| match (conditions(old), conditions(new)) {
        (Some(old), Some(new)) => old.agree(&new),
        _ => false,
    };
    by(&|new| new.file_name == old.file_name)
        .or_else(|| by(&|new| new.name == old.name && can_be_compared(new)))
        .or_else(|| by(&|new| new.name == old.name))
}

/// That a result has no counterpart in `folder`; with the reason, if its last run failed.
fn gone(old: &Series, folder: &Path) -> String {
    let failed = folder.join("failed").join(&old.file_name);
    let why = match report::read(&failed) {
        Ok(report) => report.run_info.error,
        Err(_) => None,
    };
    match why {
        Some(why) => format!("{}: the run of NEW failed: {why}", old.name),
        None => format!("{}: NEW has no result of it", old.name),
    }
}

/// Those of one configuration together.
fn series(sources: Vec<Source>) -> Vec<Series> {
    let mut found: BTreeMap<String, Series> = BTreeMap::new();
    for source in sources {
        let file_name = source.file.file_name().unwrap_or_default();
        let file_name = file_name.to_string_lossy().into_owned();
        let name = target_name(&source.file, &source.report);
        let series = found.entry(file_name.clone()).or_insert_with(|| Series {
            name: name.replacen("--", "/", 1),
            file_name,
            sources: Vec::new(),
        });
        series.sources.push(source);
    }
    found.into_values().collect()
}

/// The files of a side: itself, those in it, or those in its folders.
fn files(side: &Path) -> Result<Vec<PathBuf>, SideError> {
    if !side.is_dir() {
        return Ok(vec![side.to_owned()]);
    }
    let (mut files, folders) = entries(side)?;
    if files.is_empty() {
        for folder in folders {
            files.extend(entries(&folder)?.0);
        }
    }
    match files.is_empty() {
        true => Err(SideError::Empty {
            path: side.to_owned(),
        }),
        false => Ok(files),
    }
}

/// The JSON files and the folders in `folder`, by name.
fn entries(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), SideError> {
    let failed = |source| SideError::Read {
        path: folder.to_owned(),
        source,
    };
    let (mut files, mut folders) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            folders.push(path);
        } else if path.extension().is_some_and(|of| of == "json") && !is_special(&path) {
            files.push(path);
        }
    }
    files.sort();
    folders.sort();
    Ok((files, folders))
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
