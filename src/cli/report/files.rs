//! Finding and reading results.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};

use crate::files::is_special;
use crate::report::html::{self, Named};
use crate::report::quality::{Published, Qualities};
use crate::report::{self, Source, target_name};

/// A result that was read.
pub(super) struct Found {
    pub file: PathBuf,
    /// `<method>--<name>`
    pub name: String,
    pub report: report::Report,
    /// What's published of its configuration.
    pub quality: Qualities,
}

/// By what results are sorted. A page knows most of its results' files without their folders.
pub(super) fn place<'a>(name: &'a str, file: &'a Path) -> (&'a str, Option<&'a OsStr>, &'a Path) {
    (name, file.file_name(), file)
}

impl Found {
    /// Calls `with` on it, as rows are made of it.
    pub fn with_source<T>(&self, with: impl FnOnce(Source) -> T) -> T {
        let file = self.file.display().to_string();
        with(Source {
            file: &file,
            name: &self.name,
            report: &self.report,
            quality: &self.quality,
        })
    }
}

/// The result in the file `path`, or all that are in a page.
pub(super) fn read(path: &Path, published: &Published) -> Result<Vec<Found>> {
    if has_ending(path, "html") {
        let results = html::read_page(path)?.into_iter();
        return Ok(results
            .map(
                |Named {
                     file, name, report, ..
                 }| Found {
                    quality: published.of(&name, &report),
                    file: PathBuf::from(file),
                    name,
                    report,
                },
            )
            .collect());
    }
    let report = report::read(path)?;
    let name = target_name(path, &report);
    Ok(vec![Found {
        quality: published.of(&name, &report),
        file: path.to_owned(),
        name,
        report,
    }])
}

/// The files of results, each once: `paths` themselves, and those in folders among them. Folders
/// that can't be read, or have none, are errors.
pub(super) fn result_files(paths: &[PathBuf]) -> (Vec<PathBuf>, Vec<anyhow::Error>) {
    let (mut files, mut errors) = (Vec::new(), Vec::new());
    for path in paths {
        let is_default = path == Path::new(super::RESULTS);
        match path.is_dir() || (is_default && !path.exists()) {
            false => files.push(path.clone()),
            true => match results_in(path) {
                Ok(found) => files.extend(found),
                Err(error) => errors.push(error),
            },
        }
    }
    let mut seen = HashSet::new();
    files.retain(|file| seen.insert(fs::canonicalize(file).unwrap_or_else(|_| file.clone())));
    (files, errors)
}

fn results_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let why = || format!("cannot read `{}`", folder.display());
    let none = || {
        let folder = folder.display();
        anyhow!("there are no results in `{folder}`; `peft-bench measure EXPERIMENT` writes one")
    };
    if !folder.exists() {
        return Err(none());
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(why)? {
        let path = entry.with_context(why)?.path();
        if has_ending(&path, "json") && !is_special(&path) {
            files.push(path);
        }
    }
    files.sort();
    match files.is_empty() {
        true => Err(none()),
        false => Ok(files),
    }
}

fn has_ending(path: &Path, ending: &str) -> bool {
    path.extension().is_some_and(|found| found == ending)
}
