//! `peft-bench report`

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::options::CommonOptions;
use super::output::print;
use super::progress::message;
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
}

/// A result that was read.
struct Found {
    /// `<method>--<name>`
    name: String,
    report: report::Report,
}

impl Report {
    /// Runs the command. What can't be read is told, and the others are printed all the same.
    pub fn run(&self, common: &CommonOptions) -> Result<()> {
        let paths = match self.paths.as_slice() {
            [] => std::slice::from_ref(&common.output),
            given => given,
        };
        if let [path] = paths
            && !path.is_dir()
            && !self.overview
        {
            let Found { name, report } = read(path)?;
            return print(&one(&name, &report, common.verbose));
        }
        let (mut found, mut errors) = (Vec::new(), Vec::new());
        for path in files(paths)? {
            match read(&path) {
                Ok(result) => found.push(result),
                Err(error) => errors.push(error),
            }
        }
        found.sort_by(|one, other| one.name.cmp(&other.name));
        if !found.is_empty() {
            print(&many(&found))?;
        }
        // The last one is what the command ends with.
        let last = errors.pop();
        for error in errors {
            message(&format!("error: {error:#}"));
        }
        last.map_or(Ok(()), Err)
    }
}

fn read(path: &Path) -> Result<Found> {
    let report = report::read(path)?;
    let name = target_name(path, &report);
    Ok(Found { name, report })
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
    let rows = found.iter().map(|Found { name, report }| OverviewRow {
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
