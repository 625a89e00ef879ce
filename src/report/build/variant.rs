//! What a record comes to, against the base's.

use super::memory::memory;
use super::metrics::{samples, summarize};
use crate::measure::comparison::{measured, overhead};
use crate::measure::prompt_group::PromptGroup;
use crate::measure::record::SubjectRecord;
use crate::report::model::{Category, Maybe, Metrics, Overhead, OverheadPct, Variant};

/// The figures of `record`. What isn't in a record (the provider, the nodes that ran) is left to
/// the caller.
pub(super) fn variant(
    base: Option<&SubjectRecord>,
    record: &SubjectRecord,
    paired: bool,
    seed: u64,
) -> Variant {
    let groups = measured(record);
    let compared = base.filter(|base| base.variant != record.variant);
    let overhead_pct = compared.map(|base| {
        let over = |groups: &[PromptGroup]| overhead_of(base, record, groups, paired, seed);
        OverheadPct {
            overall: over(&groups),
            by_category: groups
                .iter()
                .map(|group| (group.to_string(), over(&[*group])))
                .collect(),
        }
    });
    let of_group = |group: PromptGroup| {
        let over = overhead_pct.as_ref()?.by_category.get(&group.to_string())?;
        over.as_ref()
    };
    let category = |group: &PromptGroup| {
        let metrics = metrics(base, record, &[*group], of_group(*group))?;
        let samples = samples(record, *group);
        Some((group.to_string(), Category { metrics, samples }))
    };
    let overall = overhead_pct.as_ref().and_then(|over| over.overall.as_ref());
    Variant {
        memory: memory(record),
        by_category: groups.iter().filter_map(category).collect(),
        overall: metrics(base, record, &groups, overall),
        overhead_pct,
        provider: None,
        executed: Maybe::Null,
        not_lowered: None,
        graph: record.graph.clone(),
        // Others' programs don't say how long they took.
        prepare_seconds: match record.graph {
            None => Some(record.prepare_seconds),
            Some(_) => None,
        },
        lay_out_seconds: record.lay_out_seconds.into(),
        session_seconds: record.session_seconds,
        cuda_graph: record.step_graph.clone(),
        warmup_runs: record.warmup_runs,
        error: record.error.clone(),
    }
}

/// What `record` costs over `base` on prompts of `groups`. It draws the bootstrap.
pub(super) fn overhead_of(
    base: &SubjectRecord,
    record: &SubjectRecord,
    groups: &[PromptGroup],
    paired: bool,
    seed: u64,
) -> Option<Overhead> {
    overhead(base, record, groups, paired, seed).map(Overhead::from)
}

/// The figures of `groups`, with those of PEFT's suite that compare with the base.
fn metrics(
    base: Option<&SubjectRecord>,
    record: &SubjectRecord,
    groups: &[PromptGroup],
    over: Option<&Overhead>,
) -> Option<Metrics> {
    let own = summarize(record, groups)?;
    let Some(base) = base else {
        return Some(own);
    };
    let of_base = summarize(base, groups).map(|metrics| metrics.inference_time);
    let is_base = base.variant == record.variant;
    Some(Metrics {
        base_inference_time: of_base.into(),
        inference_overhead_pct: match is_base {
            true => Maybe::Absent,
            false => over.map(|over| over.pct).into(),
        },
        ..own
    })
}
