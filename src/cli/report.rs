//! `peft-bench report`

mod files;
mod listed;
mod options;
mod page;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use super::options::{CommonOptions, RESULTS};
use super::output::print;
use super::progress::message;
use crate::files::write_file;
use crate::report::list::Query;
use crate::report::quality::Published;
use crate::report::{Labelled, terminal};
use files::{Found, read, result_files};

/// `report`
#[derive(Debug, Args)]
pub struct Report {
    /// Results, or folders of results (those directly in them) [default: the results' folder]. A
    /// single result is printed as `measure` printed it; of several, or of a folder, there's a
    /// table with a line for each variant.
    #[arg(value_name = "FILE|FOLDER")]
    paths: Vec<PathBuf>,

    #[command(flatten)]
    view: View,
}

/// How results are shown.
#[derive(Debug, Args)]
pub struct View {
    /// How results are shown [default: as the output's ending says, else table]
    #[arg(long, value_enum)]
    format: Option<Format>,

    /// A line for each result, and not for each variant.
    #[arg(long)]
    overview: bool,

    /// Only rows of which this is true, such as 'method == "LORA" and overhead < 5'. Also: != <= >
    /// >= or not ( ) in ("a", "b") ~ "part of a text" none. Times need a unit: `decode_p99 < 20 ms`.
    #[arg(long, value_name = "EXPRESSION")]
    filter: Option<String>,

    /// Sort by these columns.
    #[arg(long, value_name = "COLUMN[:desc],…", value_delimiter = ',')]
    sort: Vec<String>,

    /// A table for each value of this column.
    #[arg(long, value_name = "COLUMN")]
    group_by: Option<String>,

    /// Show these columns; `usual` and `all` stand for several. `help` lists all.
    #[arg(long, value_name = "COLUMN,…", value_delimiter = ',')]
    columns: Vec<String>,

    /// Published quality to stand beside the cost: a result of PEFT's method comparison, a folder of
    /// those, a file `{"results": […]}` of several, or a CSV file `experiment,metric,value`.
    #[arg(long, value_name = "FILE|FOLDER")]
    quality: Vec<PathBuf>,

    /// The metric to take of it [default: the first one that's called `test …`]
    #[arg(long, value_name = "NAME", requires = "quality")]
    quality_metric: Option<String>,

    /// Take quality that was published of this model, such as `meta-llama/Llama-3.2-3B`, whatever
    /// model was measured.
    #[arg(long, value_name = "NAME", requires = "quality")]
    quality_model: Option<String>,

    /// Write to this file, and not to stdout.
    // The option that all commands have is a folder. This takes its place here, and gets its default
    // value where nothing is given.
    #[arg(long, value_name = "FILE", default_value = RESULTS, hide_default_value = true)]
    output: PathBuf,
}

/// A way to show results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Tables of text.
    Table,
    /// Tables of Markdown.
    Markdown,
    /// A line for each row, with commas between values.
    Csv,
    /// A JSON object for each row.
    Jsonl,
    /// One page that needs nothing from outside: table, plots, and the results themselves.
    Html,
}

impl Report {
    /// Runs the command. What can't be read is told, and the others are shown all the same.
    pub fn run(&self, common: &CommonOptions) -> Result<()> {
        let usual = [PathBuf::from(RESULTS)];
        let paths = match self.paths.as_slice() {
            [] => &usual,
            given => given,
        };
        self.view.run(paths, common)
    }
}

impl View {
    /// Shows the results in `paths`.
    pub fn run(&self, paths: &[PathBuf], common: &CommonOptions) -> Result<()> {
        if self.columns == ["help"] {
            return print(&self.rows_of().help());
        }
        let format = self.format();
        let query = self.query(format);
        let published = self.published()?;
        let (files, mut errors) = result_files(paths);
        let shown = match (format, files.as_slice()) {
            (Format::Html, files) => page::page(files, &query, &published, &mut errors)?,
            (Format::Table, [file]) if !paths[0].is_dir() && !self.is_choosy() => {
                one_or_more(file, &query, &published, common.verbose, &mut errors)
            }
            (_, files) => listed::listed(files, &query, &published, format, &mut errors),
        };
        if let Some(Shown { text, results }) = shown {
            self.put(&text, results)?;
        }
        // The last one is what the command ends with.
        let last = errors.pop();
        for error in errors {
            message(&format!("error: {error:#}"));
        }
        last.map_or(Ok(()), Err)
    }

    /// Shows results in sections with headings, each of which is a folder. A format for other programs
    /// has all in one.
    pub fn run_sections(
        &self,
        sections: &[(String, PathBuf)],
        common: &CommonOptions,
    ) -> Result<()> {
        let for_people = matches!(self.format(), Format::Table | Format::Markdown);
        if self.columns == ["help"] || !for_people {
            let folders: Vec<PathBuf> = sections.iter().map(|(_, folder)| folder.clone()).collect();
            return self.run(&folders, common);
        }
        let text = self.text_of_sections(sections)?;
        let folders: Vec<PathBuf> = sections.iter().map(|(_, folder)| folder.clone()).collect();
        self.put(&text, result_files(&folders).0.len())
    }

    /// The tables of all sections, each under its heading.
    pub fn text_of_sections(&self, sections: &[(String, PathBuf)]) -> Result<String> {
        let format = self.format();
        let query = self.query(format);
        let published = self.published()?;
        let mut errors = Vec::new();
        let mut text = String::new();
        for (heading, folder) in sections {
            let (files, unread) = result_files(std::slice::from_ref(folder));
            errors.extend(unread);
            let shown = listed::listed(&files, &query, &published, format, &mut errors);
            if let Some(shown) = shown {
                let (before, mark) = match (text.is_empty(), format) {
                    (true, Format::Markdown) => ("", "## "),
                    (true, _) => ("", ""),
                    (false, Format::Markdown) => ("\n", "## "),
                    (false, _) => ("\n", ""),
                };
                text.push_str(&format!("{before}{mark}{heading}\n\n{}", shown.text));
            }
        }
        // The last one is what the command ends with.
        let last = errors.pop();
        for error in errors {
            message(&format!("error: {error:#}"));
        }
        last.map_or(Ok(text), Err)
    }

    /// Tables as they're without any option.
    pub fn usual() -> Self {
        Self {
            format: None,
            overview: false,
            filter: None,
            sort: Vec::new(),
            group_by: None,
            columns: Vec::new(),
            quality: Vec::new(),
            quality_metric: None,
            quality_model: None,
            output: PathBuf::from(RESULTS),
        }
    }

    /// What's published, to be matched with results.
    fn published(&self) -> Result<Published> {
        let mut published = Published::default();
        for path in &self.quality {
            published.add(path, self.quality_metric.as_deref())?;
        }
        if let Some(name) = &self.quality_model {
            published.stand_in(name.clone());
        }
        if let Some(note) = published.note() {
            message(&format!("note: {note}"));
        }
        Ok(published)
    }

    fn put(&self, text: &str, results: usize) -> Result<()> {
        let path = &self.output;
        if path == Path::new(RESULTS) {
            return print(text);
        }
        write_file(path, text.as_bytes())
            .with_context(|| format!("cannot write `{}`", path.display()))?;
        let results = match results {
            1 => "1 result".to_owned(),
            several => format!("{several} results"),
        };
        message(&format!("wrote {} ({results})", path.display()));
        Ok(())
    }
}

/// What's to be printed, and how many results are in it.
struct Shown {
    text: String,
    results: usize,
}

/// A single file: what `measure` printed of its result; of a page with several, the table.
fn one_or_more(
    file: &Path,
    query: &Query,
    published: &Published,
    verbose: bool,
    errors: &mut Vec<anyhow::Error>,
) -> Option<Shown> {
    match read(file, published) {
        Ok(found) => match found.as_slice() {
            [found] => Some(Shown {
                text: one(found, verbose),
                results: 1,
            }),
            _ => listed::listed(&[file.to_owned()], query, published, Format::Table, errors),
        },
        Err(error) => {
            errors.push(error);
            None
        }
    }
}

/// What `measure` printed of a result.
fn one(found: &Found, verbose: bool) -> String {
    let Found { name, report, .. } = found;
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
