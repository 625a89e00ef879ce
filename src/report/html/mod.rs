//! Results as one HTML file that needs nothing from outside.
//!
//! ```text
//! page.html    the frame: what stands where
//! ├─ style.css
//! ├─ summary   tables and environment as markup, for readers without JavaScript
//! ├─ data      columns, rows and whole results, as packed JSON
//! └─ script/   draws table and plots from the data: plain functions, no library
//! ```
//!
//! Whatever comes out of result files is either escaped (the summary) or in the packed data, which
//! the script only puts into the page as text. The page's own policy lets nothing be loaded, and no
//! script run but this one.

mod data;
mod escape;
mod packed;
mod summary;

use std::collections::BTreeMap;
use std::io;

use base64::prelude::{BASE64_STANDARD, Engine};
use sha2::{Digest, Sha256};

use super::caveats::{Caveat, caveats};
use super::comparable::{Conditions, Group, groups, titles};
use super::list::RowsOf;
use super::many::correct;
use super::model::Report;
use super::quality::Qualities;
use super::table::Value;
use super::variants::{Source, VARIANTS, VariantRow, variant_rows};
use crate::system::Environment;
use escape::escape;

pub use data::{ReadPageError, read_page};

const FRAME: &str = include_str!("page.html");
const STYLE: &str = include_str!("style.css");
/// One module, in parts that each answer a question.
const SCRIPT: &str = concat!(
    include_str!("script/elements.js"),
    include_str!("script/format.js"),
    include_str!("script/state.js"),
    include_str!("script/rows.js"),
    include_str!("script/chart.js"),
    include_str!("script/table.js"),
    include_str!("script/forest.js"),
    include_str!("script/scatter.js"),
    include_str!("script/runs.js"),
    include_str!("script/memory.js"),
    include_str!("script/break_even.js"),
    include_str!("script/detail.js"),
    include_str!("script/main.js"),
);
const TITLE: &str = "What adapters cost at inference";

/// A result on a page.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    /// Its file. No two on a page are the same.
    pub file: String,
    /// `<method>--<name>`
    pub name: String,
    /// The result.
    pub report: Report,
    /// What's published of its configuration. A page has it in its rows alone.
    pub quality: Qualities,
}

/// Results that can be compared, as the page shows them.
struct ShownGroup<'a> {
    title: String,
    /// What differs from the first group.
    differs_by: Vec<String>,
    /// Names and values.
    environment: Vec<(String, String)>,
    rows: Vec<ShownRow<'a>>,
}

/// A variant of a result.
struct ShownRow<'a> {
    /// The result's place among all.
    result: usize,
    row: VariantRow<'a>,
    /// A value for each column.
    cells: Vec<Value>,
    caveats: Vec<Caveat>,
}

/// The page of `results`. `now` is when it's made, RFC 3339.
///
/// # Errors
/// If the results can't be packed.
pub fn page(results: &[Named], now: &str) -> io::Result<String> {
    let shown = shown_groups(results);
    let program = concat!("peft-bench ", env!("CARGO_PKG_VERSION"));
    let policy = format!(
        "default-src 'none'; script-src {}; style-src {}; img-src data:; base-uri 'none'; form-action 'none'; \
         require-trusted-types-for 'script'",
        hash(SCRIPT),
        hash(STYLE)
    );
    let parts = BTreeMap::from([
        ("policy", policy),
        ("program", program.to_owned()),
        ("title", TITLE.to_owned()),
        ("when", escape(&when(results))),
        ("made", escape(now)),
        ("style", STYLE.to_owned()),
        ("summary", summary::summary(&shown)),
        ("data", data::pack(results, &shown, program, now)?),
        ("script", SCRIPT.to_owned()),
    ]);
    Ok(fill(FRAME, &parts))
}

/// How many results there are, and of which days.
fn when(results: &[Named]) -> String {
    let days = results.iter().map(|result| {
        let timestamp = &result.report.run_info.timestamp;
        timestamp
            .split_once('T')
            .map_or(timestamp.as_str(), |(day, _)| day)
    });
    let (first, last) = (
        days.clone().min().unwrap_or_default(),
        days.max().unwrap_or_default(),
    );
    let count = match results.len() {
        1 => "1 result".to_owned(),
        several => format!("{several} results"),
    };
    match first == last {
        true => format!("{count}, measured on {first}"),
        false => format!("{count}, measured from {first} to {last}"),
    }
}

fn shown_groups(results: &[Named]) -> Vec<ShownGroup<'_>> {
    let reports: Vec<&Report> = results.iter().map(|result| &result.report).collect();
    let groups = groups(&reports);
    let first = groups.first().map(|group| group.conditions.clone());
    let titles = titles(&groups);
    let shown = groups.iter().zip(titles).map(|(group, title)| ShownGroup {
        title,
        differs_by: first
            .as_ref()
            .map_or_else(Vec::new, |first| group.conditions.differences(first)),
        environment: environment(
            &group.conditions,
            group.results.iter().map(|&index| reports[index]),
        ),
        rows: rows(results, group),
    });
    shown.collect()
}

fn rows<'a>(results: &'a [Named], group: &Group) -> Vec<ShownRow<'a>> {
    let mut rows = Vec::new();
    for &index in &group.results {
        let Named {
            file,
            name,
            report,
            quality,
        } = &results[index];
        let all = caveats(report);
        let source = Source {
            file,
            name,
            report,
            quality,
        };
        for row in variant_rows(source) {
            let concerns = |caveat: &&Caveat| match (&caveat.variant, row.variant) {
                (None, _) => true,
                (Some(of), Some((name, _))) => of == name,
                (Some(_), None) => false,
            };
            rows.push(ShownRow {
                result: index,
                row,
                cells: VARIANTS.iter().map(|of| (of.value)(&row)).collect(),
                caveats: all.iter().filter(concerns).cloned().collect(),
            });
        }
    }
    if group.results.len() > 1 {
        let mut cells: Vec<Vec<Value>> = rows
            .iter_mut()
            .map(|row| std::mem::take(&mut row.cells))
            .collect();
        correct(&mut cells, &RowsOf::Variants.families());
        for (row, cells) in rows.iter_mut().zip(cells) {
            row.cells = cells;
        }
    }
    rows
}

/// The machine's state. What it doesn't tell is shown as that.
type State = (&'static str, fn(&Environment) -> Option<String>);
const STATE: &[State] = &[
    ("microcode", |of| of.processor.microcode.clone()),
    ("virtual machine", |of| {
        let is_virtual = of.processor.virtual_machine?;
        Some(if is_virtual { "yes" } else { "no" }.to_owned())
    }),
    ("governor", |of| {
        Some(of.frequency.governors.as_ref()?.join(", "))
    }),
    ("boost", |of| {
        Some(if of.frequency.boost? { "on" } else { "off" }.to_owned())
    }),
    ("hardware threads of a core", |of| {
        let siblings = of.processor.siblings.as_ref()?;
        let most = siblings.iter().map(Vec::len).max()?;
        Some(most.to_string())
    }),
    ("NUMA nodes", |of| Some(of.memory.numa_nodes?.to_string())),
    ("huge pages", |of| of.memory.transparent_huge_pages.clone()),
    ("quota", |of| {
        Some(match of.control_group.cpu_quota?.cores() {
            Some(cores) => format!("{cores} cores"),
            None => "none".to_owned(),
        })
    }),
];

/// What a group's results were measured on: their conditions, and what may differ without making
/// them another group.
fn environment<'a>(
    conditions: &Conditions,
    reports: impl Iterator<Item = &'a Report> + Clone,
) -> Vec<(String, String)> {
    let known = conditions
        .known()
        .map(|(what, value)| (capitalized(what), value.to_owned()));
    let mut environment: Vec<(String, String)> = known.collect();
    let mut add = |what: &str, of: &dyn Fn(&Report) -> Option<String>| {
        let mut values: Vec<String> = Vec::new();
        for value in reports.clone().filter_map(of) {
            if !values.contains(&value) {
                values.push(value);
            }
        }
        if !values.is_empty() {
            environment.push((capitalized(what), values.join(", ")));
        }
    };
    add("memory", &|report| {
        let bytes = report.meta_info.system_info.total_ram_bytes?;
        Some(format!("{:.1} GiB", bytes as f64 / (1_u64 << 30) as f64))
    });
    add("system", &|report| {
        let system = &report.meta_info.system_info;
        system
            .version
            .clone()
            .or_else(|| Some(system.system.clone()))
    });
    add("kernel", &|report| {
        report.meta_info.system_info.release.clone()
    });
    add("driver", &|report| {
        report.run_info.hardware.driver_version.clone()
    });
    for (what, value) in STATE {
        add(what, &|report| {
            let found = value(report.run_info.environment.value()?);
            Some(found.unwrap_or_else(|| "not told".to_owned()))
        });
    }
    add("power limit of the GPU", &|report| {
        let gpu = report.run_info.environment.value()?.gpu.as_ref()?;
        let watts = gpu.power.enforced_watts;
        Some(watts.map_or("not told".to_owned(), |watts| format!("{watts:.0} W")))
    });
    add("peft-bench", &|report| {
        let packages = report.meta_info.package_info.as_ref()?;
        let revision = packages.peft_bench_git_revision.value();
        let revision = revision.map_or(String::new(), |of| {
            format!(" ({})", of.get(..7).unwrap_or(of))
        });
        Some(format!("{}{revision}", packages.peft_bench_version))
    });
    add("starts of the processes", &|report| {
        let variants = report.generation_info.all_measured();
        let runs = variants
            .flat_map(|(_, variant)| variant.samples())
            .flat_map(|sample| &sample.individual_runs);
        let last = runs.map(|run| run.start).max()??;
        Some((last + 1).to_string())
    });
    add("runs of each prompt", &|report| {
        let variants = report.generation_info.all_measured();
        let samples = variants.flat_map(|(_, variant)| variant.samples());
        samples
            .map(|sample| sample.individual_runs.len())
            .max()
            .map(|runs| runs.to_string())
    });
    environment
}

/// With an upper-case letter at its beginning.
fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        // The program's name is written as it is.
        Some(first) if text != "peft-bench" => first.to_uppercase().chain(characters).collect(),
        _ => text.to_owned(),
    }
}

/// A source for the policy: the one inline script, or style, that may be used.
fn hash(text: &str) -> String {
    format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text)))
}

/// `frame` with each `{{name}}` replaced by its part. Parts themselves aren't searched.
fn fill(frame: &str, parts: &BTreeMap<&str, String>) -> String {
    let mut pieces = frame.split("{{");
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (name, rest) = piece.split_once("}}").unwrap_or((piece, ""));
        text.push_str(parts.get(name).map_or("", String::as_str));
        text.push_str(rest);
    }
    text
}

#[cfg(test)]
mod tests;
