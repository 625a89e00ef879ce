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
//! reading counts: it's the nearest to what memory can do. A reading while the machine is slow
//! would make a step look faster than memory allows.
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
    /// Memory bandwidth, in bytes per second: the best reading of all rounds.
    pub memory_bytes_per_second: f64,
    /// The time to read these bytes in percent of the step's time, the median over runs: 100 is as
    /// fast as memory allows.
    pub decode_pct: f64,
}

/// The roofline of the runs of `groups`; `None` if no run has a decode step, or the bandwidth was
/// never measured.
pub fn roofline(record: &SubjectRecord, groups: &[PromptGroup]) -> Option<Roofline> {
    // Those of all groups: the memory is the same.
    let rates = record.runs.iter().filter_map(|run| run.memory_rate);
    let best = rates.reduce(f64::max).filter(|rate| *rate > 0.0)?;
    let runs = record.runs.iter();
    let points: Vec<[f64; 2]> = runs
        .filter(|run| groups.contains(&run.group))
        .filter_map(|run| point(record, run, best))
        .collect();
    let of = |index: usize| median(&points.iter().map(|point| point[index]).collect::<Vec<_>>());
    Some(Roofline {
        bytes_per_step: of(0)?,
        memory_bytes_per_second: best,
        decode_pct: of(1)?,
    })
}

fn point(record: &SubjectRecord, run: &RunRecord, rate: f64) -> Option<[f64; 2]> {
    let step = run.timings.decode_time_per_token_median()?;
    // The median step is about the middle one. A step also reads the position that it adds.
    let middle = (run.timings.decode_steps.len() + 1) as f64 / 2.0;
    let positions = (record.virtual_tokens + run.prompt_tokens) as f64 + middle;
    let bytes = record.reads.bytes(positions * record.batch_size as f64);
    (step > 0.0).then(|| [bytes, 100.0 * bytes / rate / step])
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
}
