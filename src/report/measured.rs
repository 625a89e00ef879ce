//! What was measured together: rows of every variant and group of prompts, and in a sweep of every
//! batch size.

use super::columns::MEASURED;
use super::model::{Metrics, Overhead, Report, Stage, SweepEntry, SweepVariant, Variant};
use super::table::Table;
use crate::measure::prompt_group::PromptGroup;
use crate::measure::subject::Subject;
use crate::prepared::GraphFacts;

/// A result among those that were measured together against one base.
#[derive(Debug, Clone, Copy)]
pub struct Labelled<'a> {
    /// What its target is called: `<method>--<name>`.
    pub name: &'a str,
    /// What its rows are called where there are several results.
    pub label: &'a str,
    /// The result.
    pub report: &'a Report,
}

/// Which columns a table has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// It's the table of batch sizes.
    pub is_sweep: bool,
    /// Several sequences are generated at once.
    pub is_batched: bool,
    /// It's of several targets, whose names are long, so it has fewer columns.
    pub has_several: bool,
    /// A graph was run as another program exported it.
    pub has_exported: bool,
}

/// One row of a table.
#[derive(Debug)]
pub(super) struct MeasuredRow<'a> {
    pub batch_size: usize,
    pub prompts: &'a str,
    pub variant: String,
    pub metrics: &'a Metrics,
    pub overhead: Option<&'a Overhead>,
    pub peak_mb: Option<f64>,
    pub protocol: Option<String>,
}

/// One that took part: a variant of a target, or the base that all share.
pub(super) struct Participant<'a, V> {
    /// The target, where there are several.
    pub experiment: Option<&'a str>,
    /// The variant's name.
    pub subject: &'a str,
    /// What was measured of it.
    pub found: &'a V,
}

impl<V> Participant<'_, V> {
    /// Its name, with its target's where there are several.
    pub fn label(&self) -> String {
        match self.experiment {
            Some(experiment) if self.subject == Subject::Exported.name() => experiment.to_owned(),
            Some(experiment) => format!("{experiment} {}", self.subject),
            None => self.subject.to_owned(),
        }
    }
}

/// Everyone in the order of the tables: the base, each target's own variants, and the base again.
/// `all` gives the variants of a result.
fn participants<'a, V: 'a, I: Iterator<Item = (&'a str, &'a V)>>(
    results: &[Labelled<'a>],
    all: impl Fn(&'a Report) -> I,
) -> Vec<Participant<'a, V>> {
    let of_all = |subject: Subject| {
        let mut found = results.iter().flat_map(|result| all(result.report));
        let found = found.find(|(name, _)| *name == subject.name());
        found.map(|(subject, found)| Participant {
            experiment: None,
            subject,
            found,
        })
    };
    let is_shared = |name: &str| {
        let shared = [Subject::Base, Subject::BaseAgain];
        shared.iter().any(|subject| subject.name() == name)
    };
    let several = results.len() > 1;
    let own = results.iter().flat_map(|result| {
        let own = all(result.report).filter(|(name, _)| !is_shared(name));
        own.map(|(subject, found)| Participant {
            experiment: several.then_some(result.label),
            subject,
            found,
        })
    });
    let base = of_all(Subject::Base).into_iter();
    base.chain(own).chain(of_all(Subject::BaseAgain)).collect()
}

/// Everyone who took part in the main measurement.
pub(super) fn measured<'a>(results: &[Labelled<'a>]) -> Vec<Participant<'a, Variant>> {
    participants(results, |report| report.generation_info.all_measured())
}

/// PromptGroup × variant: medians, overheads over the base, and peak memory while generating.
pub fn main_table(results: &[Labelled]) -> Table {
    let all = measured(results);
    let groups = in_order(
        all.iter()
            .flat_map(|one| one.found.by_category.iter())
            .map(|(name, _)| name),
    );
    let session = results
        .first()
        .map(|result| &result.report.run_info.session);
    let batch_size = session.and_then(|session| session.batch_size).unwrap_or(1);
    let mut rows = Vec::new();
    for group in groups {
        for one in &all {
            let Some(category) = one.found.by_category.get(group) else {
                continue;
            };
            let over = one.found.overhead_pct.as_ref();
            let over = over.and_then(|over| over.by_category.get(group)?.as_ref());
            rows.push(MeasuredRow {
                batch_size,
                prompts: group,
                variant: one.label(),
                metrics: &category.metrics,
                overhead: over,
                peak_mb: one.found.memory.stage(group).map(Stage::peak_mb),
                protocol: one.found.graph.as_ref().map(GraphFacts::protocol),
            });
        }
    }
    table(
        Shape {
            is_sweep: false,
            is_batched: batch_size > 1,
            has_several: results.len() > 1,
            has_exported: all.iter().any(|one| one.found.graph.is_some()),
        },
        &rows,
    )
}

/// Batch size × group × variant; `None` if no sweep was asked for.
pub fn sweep_table(results: &[Labelled]) -> Option<Table> {
    let mut reports = results.iter().map(|result| result.report);
    if !reports.any(|report| report.generation_info.sweep.is_some()) {
        return None;
    }
    let mut rows = Vec::new();
    for batch_size in batch_sizes(results) {
        let entries = entries(results).filter(|entry| entry.batch_size == batch_size);
        for group in in_order(entries.filter_map(|entry| entry.prompts.as_deref())) {
            for one in swept(results, batch_size, Some(group)) {
                let Some(metrics) = &one.found.metrics else {
                    continue;
                };
                rows.push(MeasuredRow {
                    batch_size,
                    prompts: group,
                    variant: one.label(),
                    metrics,
                    overhead: one.found.overhead_pct.value(),
                    peak_mb: one.found.memory.as_ref().map(Stage::peak_mb),
                    protocol: None,
                });
            }
        }
    }
    let shape = Shape {
        is_sweep: true,
        is_batched: true,
        has_several: results.len() > 1,
        has_exported: false,
    };
    Some(table(shape, &rows))
}

fn entries<'a>(results: &[Labelled<'a>]) -> impl Iterator<Item = &'a SweepEntry> {
    let sweeps = results
        .iter()
        .filter_map(|result| result.report.generation_info.sweep.as_ref());
    sweeps.flatten()
}

/// The batch sizes of a sweep, in the order in which they were measured.
pub(super) fn batch_sizes(results: &[Labelled]) -> Vec<usize> {
    let mut sizes = Vec::new();
    for entry in entries(results) {
        if !sizes.contains(&entry.batch_size) {
            sizes.push(entry.batch_size);
        }
    }
    sizes
}

/// Everyone who took part with one batch size: on prompts of one group, or on whichever comes
/// first.
pub(super) fn swept<'a>(
    results: &[Labelled<'a>],
    batch_size: usize,
    group: Option<&str>,
) -> Vec<Participant<'a, SweepVariant>> {
    participants(results, |report| {
        let mut entries = report.generation_info.sweep.iter().flatten();
        let entry = entries.find(|entry| {
            entry.batch_size == batch_size && (group.is_none() || entry.prompts.as_deref() == group)
        });
        entry.into_iter().flat_map(|entry| entry.variants.iter())
    })
}

/// Each group of prompts once, in their order: categories from the shortest, then numbers of
/// tokens. Names that this version doesn't know come last.
pub(super) fn in_order<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut groups: Vec<&str> = Vec::new();
    for name in names {
        if !groups.contains(&name) {
            groups.push(name);
        }
    }
    groups.sort_by_key(|name| {
        let group = PromptGroup::from_name(name);
        (group.is_none(), group)
    });
    groups
}

fn table(shape: Shape, rows: &[MeasuredRow]) -> Table {
    let columns = || MEASURED.iter().filter(|column| (column.shown)(shape));
    let values = |row| columns().map(|column| (column.value)(row)).collect();
    Table {
        headings: columns().map(|column| &column.heading).collect(),
        rows: rows.iter().map(values).collect(),
    }
}
