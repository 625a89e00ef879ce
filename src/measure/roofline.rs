//! The roofline: how close a decode step comes to this machine's memory bandwidth.
//!
//! A decode step of few sequences is memory-bound: it can't be faster than reading its bytes.
//!
//! ```text
//! floor = (weights + adapter + batch * positions * cache per position) / memory bandwidth
//! share = floor / time of the step
//! ```
//!
//! The bandwidth is measured just before the same round ([`bandwidth`](super::bandwidth)), so that
//! a slowdown of the machine affects both.
//!
//! Source: Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for
//! multicore architectures", 2009.

use serde::{Deserialize, Serialize};

use super::prompt_group::PromptGroup;
use super::record::{RunRecord, SubjectRecord};
use super::stats::median;

/// Decode steps compared with the memory bandwidth; medians over runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Roofline {
    /// Bytes that a step must read: weights, adapter, and every sequence's cache at the middle of
    /// the generation.
    pub bytes_per_step: f64,
    /// Memory bandwidth, in bytes per second.
    pub memory_bytes_per_second: f64,
    /// The time to read these bytes in percent of the step's time: 100 is as fast as memory allows.
    pub decode_pct: f64,
}

/// The roofline of the runs of `groups`; `None` if no run has a measured bandwidth and a decode
/// step.
pub fn roofline(record: &SubjectRecord, groups: &[PromptGroup]) -> Option<Roofline> {
    let runs = record.runs.iter();
    let points: Vec<[f64; 3]> = runs
        .filter(|run| groups.contains(&run.group))
        .filter_map(|run| point(record, run))
        .collect();
    let of = |index: usize| median(&points.iter().map(|point| point[index]).collect::<Vec<_>>());
    Some(Roofline {
        bytes_per_step: of(0)?,
        memory_bytes_per_second: of(1)?,
        decode_pct: of(2)?,
    })
}

fn point(record: &SubjectRecord, run: &RunRecord) -> Option<[f64; 3]> {
    let step = run.timings.decode_time_per_token_median()?;
    let rate = run.memory_rate?;
    // The median step is about the middle one. A step also reads the position that it adds.
    let middle = (run.timings.decode_steps.len() + 1) as f64 / 2.0;
    let positions = (record.virtual_tokens + run.prompt_tokens) as f64 + middle;
    let bytes = record.reads.bytes(positions * record.batch_size as f64);
    (step > 0.0 && rate > 0.0).then(|| [bytes, rate, 100.0 * bytes / rate / step])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::record::scripted;
    use crate::measure::subject::Subject;
    use crate::prepared::DecodeReads;
    use crate::prompts::Category;

    #[test]
    fn the_share_is_the_floor_over_the_median_step_of_the_same_run() {
        let mut record = scripted(Subject::Unmerged, 1);
        let groups = [PromptGroup::Category(Category::Short)];
        assert_eq!(roofline(&record, &groups), None);

        record.reads = DecodeReads {
            weight_bytes: 900,
            adapter_bytes: 100,
            cache_bytes_per_position: 2,
        };
        record.batch_size = 3;
        record.virtual_tokens = 8;
        // The machine slows down, and its memory with it.
        for (index, run) in record.runs.iter_mut().enumerate() {
            run.memory_rate = Some(1e6 / (index + 1) as f64);
            for step in &mut run.timings.decode_steps {
                *step *= index as u32 + 1;
            }
        }
        let found = roofline(&record, &groups).unwrap();
        // 10 tokens of the prompt, 8 virtual ones, and the middle of 3 steps; three sequences of 2
        // bytes each.
        assert!((found.bytes_per_step - 1120.0).abs() < 1e-9);
        assert!((found.memory_bytes_per_second - 1e6 / 3.0).abs() < 1e-6);
        // 1.12 ms of 5 ms, in every run.
        assert!((found.decode_pct - 22.4).abs() < 1e-9, "{found:?}");
        assert_eq!(roofline(&record, &[PromptGroup::Context(10)]), None);
    }
}
