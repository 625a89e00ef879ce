//! What one variant costs over another, from their records.

use super::record::{RunRecord, VariantRecord};
use super::stats::{Overhead, Pair, UnpairedSamples, paired_overhead, unpaired_overhead};
use crate::prompts::Category;

/// What `variant` costs over `base`, in percent of the whole time of a generation. Categories are
/// strata. Runs are paired unless the base's were taken from an earlier measurement.
pub fn overhead(
    base: &VariantRecord,
    variant: &VariantRecord,
    categories: &[Category],
    paired: bool,
    seed: u64,
) -> Option<Overhead> {
    let total = |run: &RunRecord| run.timings.total().as_secs_f64();
    if !paired {
        let samples = |record: &VariantRecord, category| -> Vec<f64> {
            record.runs_of(category).map(total).collect()
        };
        let strata: Vec<UnpairedSamples> = categories
            .iter()
            .map(|&category| UnpairedSamples {
                base: samples(base, category),
                variant: samples(variant, category),
            })
            .collect();
        return unpaired_overhead(&strata, seed).ok();
    }
    let strata: Vec<Vec<Pair>> = categories
        .iter()
        .map(|&category| {
            let same = |a: &RunRecord, b: &RunRecord| (a.prompt, a.run) == (b.prompt, b.run);
            variant
                .runs_of(category)
                .filter_map(|run| {
                    let partner = base.runs_of(category).find(|other| same(run, other))?;
                    Some(Pair {
                        base: total(partner),
                        variant: total(run),
                    })
                })
                .collect()
        })
        .collect();
    paired_overhead(&strata, seed).ok()
}

/// The categories of which there are runs.
pub fn measured(record: &VariantRecord) -> Vec<Category> {
    let has_runs = |category: &Category| record.runs_of(*category).next().is_some();
    Category::ALL.into_iter().filter(has_runs).collect()
}

/// Half of an interval's width, in percentage points; `None` without an interval.
pub fn half_width(overhead: &Overhead) -> Option<f64> {
    let [low, high] = overhead.interval_pct?;
    Some((high - low) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::record::scripted as record;
    use crate::measure::subject::Subject;

    #[test]
    fn a_variant_that_takes_twice_as_long_costs_100_percent() {
        let (base, slow) = (record(Subject::Base, 1), record(Subject::Unmerged, 2));
        for paired in [true, false] {
            let found = overhead(&base, &slow, &[Category::Short], paired, 1).unwrap();
            assert!((found.pct - 100.0).abs() < 1e-6, "{found:?}");
            assert_eq!(found.paired, paired);
            assert!(found.detected);
        }
    }
}
