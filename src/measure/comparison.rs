//! A subject's overhead against the base, computed from their records.

use std::collections::BTreeSet;

use super::prompt_group::PromptGroup;
use super::record::{RunRecord, SubjectRecord};
use super::stats::{OfStart, Overhead, Pair, UnpairedSamples, paired_overhead, unpaired_overhead};

/// The overhead of `variant` against `base`, in percent of the time of a whole generation. Each
/// group is a stratum. Pass `paired: false` if the base's record comes from an earlier measurement.
/// `None` if a group has no runs of one of the two.
pub fn overhead(
    base: &SubjectRecord,
    variant: &SubjectRecord,
    groups: &[PromptGroup],
    paired: bool,
    seed: u64,
) -> Option<Overhead> {
    let total = |run: &RunRecord| run.timings.total().as_secs_f64();
    if !paired {
        let samples = |record: &SubjectRecord, group| -> Vec<OfStart> {
            let runs = record.runs_of(group).map(|run| OfStart {
                start: run.start,
                value: total(run),
            });
            runs.collect()
        };
        let strata: Vec<UnpairedSamples> = groups
            .iter()
            .map(|&group| UnpairedSamples {
                base: samples(base, group),
                variant: samples(variant, group),
            })
            .collect();
        return unpaired_overhead(&strata, seed).ok();
    }
    let strata: Vec<Vec<Pair>> = groups
        .iter()
        .map(|&group| {
            let same = |a: &RunRecord, b: &RunRecord| (a.prompt, a.run) == (b.prompt, b.run);
            variant
                .runs_of(group)
                .filter_map(|run| {
                    let partner = base.runs_of(group).find(|other| same(run, other))?;
                    Some(Pair {
                        base: total(partner),
                        variant: total(run),
                        start: run.start,
                    })
                })
                .collect()
        })
        .collect();
    paired_overhead(&strata, seed).ok()
}

/// The groups that have runs in `record`, in ascending order.
pub fn measured(record: &SubjectRecord) -> Vec<PromptGroup> {
    let groups: BTreeSet<PromptGroup> = record.runs.iter().map(|run| run.group).collect();
    groups.into_iter().collect()
}

/// The half-width of an overhead's interval, in percentage points; `None` without an interval.
pub fn half_width(overhead: &Overhead) -> Option<f64> {
    let [low, high] = overhead.interval_pct?;
    Some((high - low) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::record::scripted as record;
    use crate::measure::subject::Subject;
    use crate::prompts::Category;

    #[test]
    fn a_variant_that_takes_twice_as_long_costs_100_percent() {
        let (base, slow) = (record(Subject::Base, 1), record(Subject::Unmerged, 2));
        for paired in [true, false] {
            let found = overhead(
                &base,
                &slow,
                &[PromptGroup::Category(Category::Short)],
                paired,
                1,
            )
            .unwrap();
            assert!((found.pct - 100.0).abs() < 1e-6, "{found:?}");
            assert_eq!(found.paired, paired);
            assert!(found.detected);
        }
    }
}
