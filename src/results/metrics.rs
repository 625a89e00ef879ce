//! From records to figures. Everything is a median over runs, in seconds; overheads come from pairs.

use serde::Serialize;
use serde_json::{Value, json};

use crate::measure::comparison::measured;
use crate::measure::prompt_group::PromptGroup;
use crate::measure::record::{RunRecord, SubjectRecord};
use crate::measure::roofline::{Roofline, roofline};
use crate::measure::stats::{find_outliers, median};

/// Figures of one variant in one category, or over all of them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CategoryMetrics {
    /// Median of a generation's whole time, seconds.
    pub inference_time: f64,
    /// Median of the time from the prompt to the first new token, seconds.
    pub time_to_first_token: f64,
    /// The same as `time_to_first_token`: prefill gives the first token.
    pub prefill_time: f64,
    /// Median of all decode steps, seconds; absent where one token is generated. A step makes one token of **every**
    /// sequence of the batch.
    pub decode_time_per_token: Option<f64>,
    /// The same over the batch's size: what each of the batch's tokens takes.
    pub decode_time_per_batch_token: Option<f64>,
    /// Sequences that are generated at once.
    pub batch_size: usize,
    /// Median of `inference_time / generated_tokens`, seconds.
    pub time_per_token: f64,
    /// Tokens of one sequence; of several prompts, their mean.
    pub generated_tokens: f64,
    /// Energy of all generations over the tokens of all their sequences, joules; absent where the machine doesn't tell it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub energy_per_token_joules: Option<f64>,
    /// Generations that the medians are over.
    pub runs: usize,
    /// Decode steps against the rate of memory; absent where that can't be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roofline: Option<Roofline>,
}

/// Figures over the runs of `groups`; `None` without any.
pub fn summarize(record: &SubjectRecord, groups: &[PromptGroup]) -> Option<CategoryMetrics> {
    let runs = record.runs.iter();
    let runs = runs.filter(|run| groups.contains(&run.group)).collect();
    Some(CategoryMetrics {
        roofline: roofline(record, groups),
        ..summarize_runs(runs, record.batch_size)?
    })
}

/// Figures over `runs`, but for those that need more than the runs; `None` without any.
fn summarize_runs(runs: Vec<&RunRecord>, batch_size: usize) -> Option<CategoryMetrics> {
    let of = |figure: fn(&RunRecord) -> f64| -> Option<f64> {
        median(&runs.iter().map(|run| figure(run)).collect::<Vec<f64>>())
    };
    let prefill = of(|run| run.timings.time_to_first_token.as_secs_f64())?;
    let steps: Vec<f64> = runs
        .iter()
        .flat_map(|run| &run.timings.decode_steps)
        .map(std::time::Duration::as_secs_f64)
        .collect();
    let tokens: usize = runs.iter().map(|run| run.timings.new_tokens()).sum();
    let energy: Option<f64> = runs.iter().map(|run| run.energy_joules).sum();
    Some(CategoryMetrics {
        inference_time: of(|run| run.timings.total().as_secs_f64())?,
        time_to_first_token: prefill,
        prefill_time: prefill,
        decode_time_per_token: median(&steps),
        decode_time_per_batch_token: median(&steps).map(|step| step / batch_size as f64),
        batch_size,
        time_per_token: of(|run| run.timings.time_per_token())?,
        generated_tokens: tokens as f64 / runs.len() as f64,
        energy_per_token_joules: energy.map(|joules| joules / (tokens * batch_size) as f64),
        runs: runs.len(),
        roofline: None,
    })
}

/// Suspicious runs of a variant: those far from the others of their prompt, and prompts whose first was slow.
pub fn count_outliers(record: &SubjectRecord) -> (usize, usize) {
    let mut counts = (0, 0);
    for group in measured(record) {
        let mut prompts: Vec<usize> = record.runs_of(group).map(|run| run.prompt).collect();
        prompts.sort_unstable();
        prompts.dedup();
        for prompt in prompts {
            let runs = record.runs_of(group).filter(|run| run.prompt == prompt);
            let totals: Vec<f64> = runs.map(|run| run.timings.total().as_secs_f64()).collect();
            let found = find_outliers(&totals);
            counts.0 += found.indices.len();
            counts.1 += usize::from(found.slow_first_run);
        }
    }
    counts
}

/// One entry a prompt, with every run.
pub fn samples(record: &SubjectRecord, group: PromptGroup) -> Vec<Value> {
    let mut prompts: Vec<usize> = record.runs_of(group).map(|run| run.prompt).collect();
    // Rounds for a target's sake come back to every prompt.
    prompts.sort_unstable();
    prompts.dedup();
    prompts
        .into_iter()
        .filter_map(|prompt| {
            let runs = || record.runs_of(group).filter(|run| run.prompt == prompt);
            let metrics = summarize_runs(runs().collect(), record.batch_size)?;
            let totals: Vec<f64> = runs()
                .map(|run| run.timings.total().as_secs_f64())
                .collect();
            Some(json!({
                "prompt": prompt,
                "prompt_tokens": runs().next().map(|run| run.prompt_tokens),
                "inference_time": metrics.inference_time,
                "generated_tokens": metrics.generated_tokens,
                "time_per_token": metrics.time_per_token,
                "outliers": find_outliers(&totals),
                "individual_runs": runs().map(individual_run).collect::<Vec<Value>>(),
            }))
        })
        .collect()
}

fn individual_run(run: &RunRecord) -> Value {
    let timings = &run.timings;
    json!({
        "inference_time": timings.total().as_secs_f64(),
        "generated_tokens": timings.new_tokens(),
        "time_per_token": timings.time_per_token(),
        "time_to_first_token": timings.time_to_first_token.as_secs_f64(),
        "memory_bytes_per_second": run.memory_rate,
        "decode_steps": timings.decode_steps.iter().map(|step| step.as_secs_f64()).collect::<Vec<f64>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::record::scripted as record;
    use crate::measure::subject::Subject;
    use std::time::Duration;

    #[test]
    fn figures_are_medians_over_the_runs() {
        let record = record(Subject::Base, 1);
        let metrics = summarize(&record, &measured(&record)).unwrap();
        assert!((metrics.time_to_first_token - 0.042).abs() < 1e-9);
        assert!((metrics.inference_time - 0.057).abs() < 1e-9);
        assert_eq!(metrics.decode_time_per_token, Some(0.005));
        assert!((metrics.time_per_token - 0.057 / 4.0).abs() < 1e-9);
        assert!(summarize(&record, &[PromptGroup::Context(1)]).is_none());
    }

    #[test]
    fn energy_is_of_all_tokens_and_absent_if_a_run_has_none() {
        let mut record = record(Subject::Base, 1);
        for run in &mut record.runs {
            run.energy_joules = Some(8.0);
        }
        let energy =
            |record: &SubjectRecord| summarize(record, &measured(record))?.energy_per_token_joules;
        assert_eq!(energy(&record), Some(2.0));
        record.batch_size = 4;
        assert_eq!(energy(&record), Some(0.5));
        let metrics = summarize(&record, &measured(&record)).unwrap();
        assert_eq!(metrics.decode_time_per_token, Some(0.005));
        assert_eq!(metrics.decode_time_per_batch_token, Some(0.005 / 4.0));
        record.runs[2].energy_joules = None;
        assert_eq!(energy(&record), None);
    }

    #[test]
    fn a_stalled_run_and_a_slow_first_one_are_counted() {
        let mut record = record(Subject::Base, 1);
        assert_eq!(count_outliers(&record), (0, 0));
        record.runs[0].timings.time_to_first_token = Duration::from_secs(9);
        assert_eq!(count_outliers(&record), (1, 1));
        record.runs[3].timings.time_to_first_token = Duration::from_secs(9);
        record.runs[0].timings.time_to_first_token = Duration::from_millis(40);
        assert_eq!(count_outliers(&record), (1, 0));
    }

    #[test]
    fn every_run_is_kept() {
        let samples = samples(
            &record(Subject::Base, 1),
            PromptGroup::Category(crate::prompts::Category::Short),
        );
        assert_eq!(samples.len(), 1);
        assert_eq!(samples[0]["individual_runs"].as_array().unwrap().len(), 5);
        assert_eq!(
            samples[0]["individual_runs"][0]["decode_steps"]
                .as_array()
                .unwrap()
                .len(),
            3
        );
    }
}
