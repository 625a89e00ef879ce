//! Overheads in parts of generations. A result has those of whole generations; these are computed
//! from its runs, by the same statistics.

use crate::measure::stats::{
    OfStart, Pair, UnpairedSamples, median, paired_overhead, unpaired_overhead,
};
use crate::report::model::{BaseSource, Category, Overhead, Report, Run, Variant};

/// A part of a generation.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    /// From the prompt to the first new token.
    FirstToken,
    /// The median of its decode steps.
    Decode,
}

/// What `variant` costs over the base in `part`, over all prompts that the base was measured on.
pub(super) fn overhead(report: &Report, variant: &Variant, part: Part) -> Option<Overhead> {
    let base = report.generation_info.measured("base")?;
    let both = base.by_category.iter().map(|(group, base)| {
        let own = variant.by_category.get(group)?;
        Some((base, own))
    });
    let both: Vec<(&Category, &Category)> = both.collect::<Option<_>>()?;
    let seed = report.run_info.benchmark_config["seed"].as_u64();
    let seed = seed.unwrap_or_default();
    let found = match report.run_info.session.base {
        BaseSource::Interleaved => {
            let strata = both.iter().map(|(base, own)| pairs(base, own, part));
            paired_overhead(&strata.collect::<Vec<_>>(), seed)
        }
        BaseSource::Cached => {
            let strata = both.iter().map(|(base, own)| UnpairedSamples {
                base: times(base, part),
                variant: times(own, part),
            });
            unpaired_overhead(&strata.collect::<Vec<_>>(), seed)
        }
    };
    found.ok().map(Overhead::from)
}

fn pairs(base: &Category, variant: &Category, part: Part) -> Vec<Pair> {
    let pair = |(base, own): (&Run, &Run)| {
        Some(Pair {
            base: part.of(base)?,
            variant: part.of(own)?,
            start: own.start(),
        })
    };
    variant.paired_runs(base).filter_map(pair).collect()
}

fn times(category: &Category, part: Part) -> Vec<OfStart> {
    let samples = category.samples.iter();
    let runs = samples.flat_map(|sample| &sample.individual_runs);
    let time = |run: &Run| {
        Some(OfStart {
            start: run.start(),
            value: part.of(run)?,
        })
    };
    runs.filter_map(time).collect()
}

impl Part {
    /// Its time in `run`; `None` of the steps of a run without any.
    fn of(self, run: &Run) -> Option<f64> {
        match self {
            Self::FirstToken => Some(run.time_to_first_token),
            Self::Decode => median(&run.decode_steps),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::record::scripted as record;
    use crate::measure::subject::Subject;
    use crate::report::build::scripted::report;

    #[test]
    fn each_part_has_an_overhead_of_its_own() {
        let records = [record(Subject::Base, 1), record(Subject::Unmerged, 1)];
        let mut found = report(&records, &[], None);
        let mut document = serde_json::to_value(&found).unwrap();
        let of_unmerged = &mut document["generation_info"]["variants"]["unmerged"]["by_category"];
        for category in of_unmerged.as_object_mut().unwrap().values_mut() {
            for sample in category["samples"].as_array_mut().unwrap() {
                for run in sample["individual_runs"].as_array_mut().unwrap() {
                    let time = run["time_to_first_token"].as_f64().unwrap();
                    run["time_to_first_token"] = (time * 3.0).into();
                }
            }
        }
        found = serde_json::from_value(document).unwrap();
        for base in [BaseSource::Interleaved, BaseSource::Cached] {
            found.run_info.session.base = base;
            let unmerged = found.generation_info.measured("unmerged").unwrap();
            let first = overhead(&found, unmerged, Part::FirstToken).unwrap();
            assert!((first.pct - 200.0).abs() < 1e-6, "{first:?}");
            let steps = overhead(&found, unmerged, Part::Decode).unwrap();
            assert!(steps.pct.abs() < 1e-6, "{steps:?}");
            assert_eq!(first.paired, base == BaseSource::Interleaved);
        }
    }
}
