//! Figures of everything that was measured together. They're computed once; each target's report
//! takes its own.

use std::collections::BTreeSet;

use rayon::prelude::*;

use super::memory::stage;
use super::metrics::summarize;
use super::variant::{overhead_of, variant};
use crate::measure::comparison::measured;
use crate::measure::prompt_group::PromptGroup;
use crate::measure::record::SubjectRecord;
use crate::measure::subject::Subject;
use crate::measure::sweep::SweepRun;
use crate::report::model::{Maybe, Ordered, Overhead, SweepEntry, SweepVariant, Variant};

/// Figures of a measurement of one base and one or more targets.
#[derive(Debug, Default)]
pub struct Figures<'a> {
    /// One for each record, in their order.
    variants: Vec<(&'a SubjectRecord, Variant)>,
    /// Absent if no sweep was asked for. One for each batch size.
    sweep: Option<Vec<SweepFigures<'a>>>,
}

/// Figures of one batch size.
#[derive(Debug)]
struct SweepFigures<'a> {
    batch_size: usize,
    /// The groups of prompts, in order, each with one entry for each record.
    groups: Vec<(PromptGroup, Vec<(&'a SubjectRecord, SweepVariant)>)>,
    records: &'a [SubjectRecord],
}

impl<'a> Figures<'a> {
    /// Computes the figures. `paired` says whether the base was measured in turn with the others,
    /// and `seed` draws the bootstrap.
    pub fn new(
        records: &'a [SubjectRecord],
        sweep: &'a [SweepRun],
        paired: bool,
        seed: u64,
    ) -> Self {
        let base = base_of(records);
        // Intervals of thousands of runs take many seconds, and a job scheduler may not wait.
        let variants: Vec<(&SubjectRecord, Variant)> = records
            .par_iter()
            .map(|record| (record, variant(base, record, paired, seed)))
            .collect();
        let sweep = sweep.iter().map(|run| {
            // Where the batch sizes are all there is to sweep, the first one is the main
            // measurement.
            let main = (run.records == records).then_some(variants.as_slice());
            SweepFigures::new(run, main, seed)
        });
        let sweep: Vec<SweepFigures> = sweep.collect();
        Self {
            sweep: (!sweep.is_empty()).then_some(sweep),
            variants,
        }
    }

    /// The records and figures of `experiment`, those of the base among them.
    pub(super) fn of(
        &self,
        experiment: Option<&str>,
    ) -> impl Iterator<Item = (&'a SubjectRecord, &Variant)> {
        let all = self
            .variants
            .iter()
            .map(|(record, figures)| (*record, figures));
        all.filter(move |(record, _)| is_of(record, experiment))
    }

    /// What was swept of `experiment`.
    pub(super) fn sweep_of(&self, experiment: Option<&str>) -> Option<Vec<SweepEntry>> {
        let runs = self.sweep.as_ref()?.iter();
        Some(runs.flat_map(|run| run.entries_of(experiment)).collect())
    }
}

impl<'a> SweepFigures<'a> {
    /// `main` has the figures of the same records, if they are known already.
    fn new(run: &'a SweepRun, main: Option<&[(&SubjectRecord, Variant)]>, seed: u64) -> Self {
        let base = base_of(&run.records);
        let groups: BTreeSet<PromptGroup> = run.records.iter().flat_map(measured).collect();
        let overhead =
            |index: usize, record: &SubjectRecord, group: PromptGroup| -> Maybe<Overhead> {
                let Some(base) = base.filter(|base| base.variant != record.variant) else {
                    return Maybe::Absent;
                };
                let known = main.and_then(|main| main.get(index)?.1.overhead_pct.as_ref());
                match known.and_then(|known| known.by_category.get(&group.to_string())) {
                    Some(known) => (*known).into(),
                    None => overhead_of(base, record, &[group], run.paired, seed).into(),
                }
            };
        let variant = |index: usize, record: &SubjectRecord, group: PromptGroup| {
            let name = group.to_string();
            let mut stages = record.stages.iter();
            SweepVariant {
                metrics: summarize(record, &[group]),
                overhead_pct: overhead(index, record, group),
                memory: stages.find(|of| of.stage == name).map(stage),
                error: record.error.clone(),
            }
        };
        let variants = |group: PromptGroup| {
            let records = run.records.iter().enumerate();
            records
                .map(|(index, record)| (record, variant(index, record, group)))
                .collect()
        };
        Self {
            batch_size: run.batch_size,
            groups: groups
                .into_iter()
                .map(|group| (group, variants(group)))
                .collect(),
            records: &run.records,
        }
    }

    /// One entry for each group of prompts; if every variant failed before a generation ended, one
    /// that says so.
    fn entries_of(&self, experiment: Option<&str>) -> Vec<SweepEntry> {
        let own = |record: &&SubjectRecord| is_of(record, experiment);
        let entry = |(group, variants): &(PromptGroup, Vec<(&SubjectRecord, SweepVariant)>)| {
            let records = self.records.iter().filter(own);
            let mut runs = records.flat_map(|record| record.runs_of(*group));
            let prompt_tokens = Some(runs.next()?.prompt_tokens);
            let variants = variants.iter().filter(|(record, _)| own(record));
            Some(SweepEntry {
                batch_size: self.batch_size,
                prompts: Some(group.to_string()),
                prompt_tokens,
                variants: variants
                    .map(|(record, found)| (record.variant.name().to_owned(), found.clone()))
                    .collect(),
            })
        };
        let entries: Vec<SweepEntry> = self.groups.iter().filter_map(entry).collect();
        let records: Vec<&SubjectRecord> = self.records.iter().filter(own).collect();
        if !entries.is_empty() || records.iter().all(|record| record.error.is_none()) {
            return entries;
        }
        let failed = |record: &SubjectRecord| SweepVariant {
            metrics: None,
            overhead_pct: Maybe::Absent,
            memory: None,
            error: record.error.clone(),
        };
        vec![SweepEntry {
            batch_size: self.batch_size,
            prompts: None,
            prompt_tokens: None,
            variants: records
                .iter()
                .map(|record| (record.variant.name().to_owned(), failed(record)))
                .collect::<Ordered<_>>(),
        }]
    }
}

fn is_of(record: &SubjectRecord, experiment: Option<&str>) -> bool {
    let own = record.experiment.as_deref();
    own.is_none() || own == experiment
}

fn base_of(records: &[SubjectRecord]) -> Option<&SubjectRecord> {
    let mut records = records.iter();
    records.find(|record| record.variant == Subject::Base)
}
