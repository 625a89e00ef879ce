//! The roofline: how close a decode step comes to this machine's memory bandwidth.
//!
//! A decode step of few sequences is memory-bound: it can't be faster than reading its bytes.
//!
//! ```text
//! floor = (weights + adapter + batch * positions * cache per position) / memory bandwidth
//! share = floor / time of the step
//! ```
//!
//! The bandwidth is measured before every round ([`bandwidth`](super::bandwidth)), and the best
//! reading counts: it's the nearest to what memory can do. A run whose steps read faster than that
//! counts as a reading, too: the machine's rate changes from one second to the next, and a step
//! can't be faster than memory allows.
//!
//! Source: Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for
//! multicore architectures", 2009.

use serde::{Deserialize, Serialize};

use super::prompt_group::PromptGroup;
use super::record::{RunRecord, SubjectRecord};
use super::stats::median;

/// Decode steps compared with the memory bandwidth.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Roofline {
    /// Bytes that a step must read: weights, adapter, and every sequence's cache at the middle of
    /// the generation.
    pub bytes_per_step: f64,
    /// Memory bandwidth, in bytes per second: the best reading of all rounds, or the rate of the
    /// fastest run's median step if that's higher.
    pub memory_bytes_per_second: f64,
    /// The time to read these bytes in percent of the step's time, the median over runs: 100 is as
    /// fast as memory allows.
    pub decode_pct: f64,
}

/// The roofline of the runs of `groups`; `None` if none of them has a decode step, or the bandwidth
/// was never measured.
pub fn roofline(record: &SubjectRecord, groups: &[PromptGroup]) -> Option<Roofline> {
    // Those of all groups: the memory is the same.
    let rates = record.runs.iter().filter_map(|run| run.memory_rate);
    let read = rates.reduce(f64::max).filter(|rate| *rate > 0.0)?;
    let steps = record.runs.iter().filter_map(|run| step(record, run));
    let best = steps.map(Step::rate).fold(read, f64::max);
    let runs = record.runs.iter();
    let steps: Vec<Step> = runs
        .filter(|run| groups.contains(&run.group))
        .filter_map(|run| step(record, run))
        .collect();
    let of = |figure: &dyn Fn(&Step) -> f64| median(&steps.iter().map(figure).collect::<Vec<_>>());
    Some(Roofline {
        bytes_per_step: of(&|step| step.bytes)?,
        memory_bytes_per_second: best,
        decode_pct: of(&|step| 100.0 * step.rate() / best)?,
    })
}

/// The median step of a run.
#[derive(Debug, Clone, Copy)]
struct Step {
    bytes: f64,
    seconds: f64,
}

impl Step {
    /// Bytes per second.
    fn rate(self) -> f64 {
        self.bytes / self.seconds
    }
}

fn step(record: &SubjectRecord, run: &RunRecord) -> Option<Step> {
    let seconds = run.timings.decode_time_per_token_median()?;
    // The median step is about the middle one. A step also reads the position that it adds.
    let middle = (run.timings.decode_steps.len() + 1) as f64 / 2.0;
    let positions = (record.virtual_tokens + run.prompt_tokens) as f64 + middle;
    let bytes = record.reads.bytes(positions * record.batch_size as f64);
    (seconds > 0.0).then_some(Step { bytes, seconds })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::record::scripted;
    use crate::measure::subject::Subject;
    use crate::prepared::DecodeReads;
    use crate::prompts::Category;

    #[test]
    fn the_share_is_the_floor_at_the_best_rate_over_the_median_step() {
        let mut record = scripted(Subject::Unmerged, 1);
        let groups = [PromptGroup::Category(Category::Short)];
        assert_eq!(roofline(&record, &groups), None);

        record.reads = DecodeReads {
            weight_bytes: 900,
            adapter_bytes: 100,
            cache_bytes_per_position: 2,
            state_bytes: 0,
        };
        record.batch_size = 3;
        record.virtual_tokens = 8;
        // While its rate was read, the machine was mostly slow.
        for (index, run) in record.runs.iter_mut().enumerate() {
            run.memory_rate = Some(1e6 / (index + 1) as f64);
        }
        let found = roofline(&record, &groups).unwrap();
        // 10 tokens of the prompt, 8 virtual ones, and the middle of 3 steps; three sequences of 2
        // bytes each.
        assert!((found.bytes_per_step - 1120.0).abs() < 1e-9);
        assert_eq!(found.memory_bytes_per_second, 1e6);
        // 1.12 ms of 5 ms, in every run.
        assert!((found.decode_pct - 22.4).abs() < 1e-9, "{found:?}");
        // The rate is that of all groups, also where one has a slow reading alone.
        record.runs[4].group = PromptGroup::Context(10);
        let found = roofline(&record, &[PromptGroup::Context(10)]).unwrap();
        assert_eq!(found.memory_bytes_per_second, 1e6);
        assert!((found.decode_pct - 22.4).abs() < 1e-9, "{found:?}");
        assert_eq!(roofline(&record, &[PromptGroup::Context(11)]), None);
    }

    #[test]
    fn no_step_is_faster_than_memory() {
        let mut record = scripted(Subject::Unmerged, 1);
        record.reads.weight_bytes = 1000;
        for run in &mut record.runs {
            run.memory_rate = Some(1.0);
        }
        let groups: Vec<PromptGroup> = record.runs.iter().map(|run| run.group).collect();
        let found = roofline(&record, &groups).unwrap();
        assert!(found.memory_bytes_per_second > 1.0, "{found:?}");
        assert!(
            found.decode_pct > 0.0 && found.decode_pct <= 100.0,
            "{found:?}"
        );
    }
}
