//! `peft-bench report`

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use super::options::{CommonOptions, RESULTS};
use super::output::print;
use super::progress::message;
use crate::files::write_file;
use crate::report::html::{self, Named};
use crate::report::{self, Labelled, OverviewRow, target_name, terminal};

/// `report`
#[derive(Debug, Args)]
pub struct Report {
    /// Results, or folders of results (those directly in them) [default: the results' folder]. A
    /// single result is printed as `measure` printed it; of several, or of a folder, there's a
    /// table with a line for each.
    #[arg(value_name = "FILE|FOLDER")]
    paths: Vec<PathBuf>,

    /// Print a line for each result, also if there's only one.
    #[arg(long)]
    overview: bool,

    /// How results are shown. `html` is one page that needs nothing from outside: table, plots, and the results themselves.
    #[arg(long, value_enum, default_value_t)]
    format: Format,

    /// Write to this file, and not to stdout.
    // The option that all commands have is a folder. This takes its place here, and gets its default
    // value where nothing is given.
    #[arg(long, value_name = "FILE", default_value = RESULTS, hide_default_value = true)]
    output: PathBuf,
}

/// A way to show results.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Tables of text.
    #[default]
    Table,
    /// A page with table and plots.
    Html,
}

/// A result that was read.
struct Found {
    file: PathBuf,
    /// `<method>--<name>`
    name: String,
    report: report::Report,
}

impl Found {
    /// By what results are sorted. A page knows most of its results' files without their folders.
    fn place(&self) -> (&str, Option<&OsStr>, &Path) {
        (&self.name, self.file.file_name(), &self.file)
    }
}

impl Report {
    /// Runs the command. What can't be read is told, and the others are shown all the same.
    pub fn run(&self, common: &CommonOptions) -> Result<()> {
        let usual = [PathBuf::from(RESULTS)];
        let paths = match self.paths.as_slice() {
            [] => &usual,
            given => given,
        };
        let is_one = matches!(paths, [path] if !path.is_dir());
        let (mut found, mut errors) = (Vec::new(), Vec::new());
        for path in files(paths)? {
            match read(&path) {
                Ok(results) => found.extend(results),
                Err(error) => errors.push(error),
            }
        }
        found.sort_by(|one, other| one.place().cmp(&other.place()));
        if !found.is_empty() {
            self.show(&found, is_one, common.verbose)?;
        }
        // The last one is what the command ends with.
        let last = errors.pop();
        for error in errors {
            message(&format!("error: {error:#}"));
        }
        last.map_or(Ok(()), Err)
    }

    fn show(&self, found: &[Found], is_one: bool, verbose: bool) -> Result<()> {
        let text = match (self.format, found) {
            (Format::Html, found) => page(found)?,
            (Format::Table, [one]) if is_one && !self.overview => {
                self::one(&one.name, &one.report, verbose)
            }
            (Format::Table, found) => many(found),
        };
        let path = &self.output;
        if path == Path::new(RESULTS) {
            return print(&text);
        }
        write_file(path, text.as_bytes())
            .with_context(|| format!("cannot write `{}`", path.display()))?;
        message(&format!(
            "wrote {} ({} results)",
            path.display(),
            found.len()
        ));
        Ok(())
    }
}

/// The result in the file `path`, or all that are in a page.
fn read(path: &Path) -> Result<Vec<Found>> {
    if path
        .extension()
        .is_some_and(|extension| extension == "html")
    {
        let results = html::read_page(path)?.into_iter();
        return Ok(results
            .map(|Named { file, name, report }| Found {
                file: PathBuf::from(file),
                name,
                report,
            })
            .collect());
    }
    let report = report::read(path)?;
    let name = target_name(path, &report);
    Ok(vec![Found {
        file: path.to_owned(),
        name,
        report,
    }])
}

/// One page of all.
fn page(found: &[Found]) -> Result<String> {
    let short = |found: &Found| match found.file.file_name() {
        Some(name) => name.to_string_lossy().into_owned(),
        None => found.file.display().to_string(),
    };
    let mut same: BTreeMap<String, usize> = BTreeMap::new();
    for one in found {
        *same.entry(short(one)).or_default() += 1;
    }
    let named = found.iter().map(|one| Named {
        // Folders are told where names aren't enough.
        file: match same[&short(one)] {
            1 => short(one),
            _ => one.file.display().to_string(),
        },
        name: one.name.clone(),
        report: one.report.clone(),
    });
    let named: Vec<Named> = named.collect();
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    html::page(&named, &now).context("cannot pack the results")
}

/// The files of results: `paths` themselves, and those in folders among them.
fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let before = files.len();
        let entries =
            fs::read_dir(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        for entry in entries {
            let path = entry
                .with_context(|| format!("cannot read `{}`", path.display()))?
                .path();
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                files.push(path);
            }
        }
        if files.len() == before {
            bail!("there are no results in `{}`", path.display());
        }
        files[before..].sort();
    }
    Ok(files)
}

/// What `measure` printed of a result.
fn one(name: &str, report: &report::Report, verbose: bool) -> String {
    let result = Labelled {
        name,
        label: name,
        report,
    };
    let error = report.run_info.error.as_deref();
    if report.generation_info.variants.is_empty() {
        return format!("{name}: {}\n", error.unwrap_or("nothing was measured"));
    }
    let mut text = terminal::measurement(&[result], verbose);
    if let Some(error) = error {
        text.push_str(&format!("\n{error}\n"));
    }
    text
}

/// A line for each result, and the errors of those that failed.
fn many(found: &[Found]) -> String {
    let rows = found.iter().map(|Found { name, report, .. }| OverviewRow {
        name: name.replacen("--", "/", 1),
        report,
    });
    let rows: Vec<OverviewRow> = rows.collect();
    let mut text = terminal::many(&rows);
    for row in &rows {
        if let Some(error) = &row.report.run_info.error {
            text.push_str(&format!("{}: {error}\n", row.name));
        }
    }
    text
}
