//! From records to figures: medians over runs.

use crate::measure::prompt_group::PromptGroup;
use crate::measure::record::{RunRecord, SubjectRecord};
use crate::measure::roofline::roofline;
use crate::measure::stats::{find_outliers, median};
use crate::report::model::{Maybe, Metrics, Run, Sample};

/// Figures over the runs of `groups`; `None` without any.
pub(super) fn summarize(record: &SubjectRecord, groups: &[PromptGroup]) -> Option<Metrics> {
    let runs = record.runs.iter();
    let runs = runs.filter(|run| groups.contains(&run.group)).collect();
    Some(Metrics {
        roofline: roofline(record, groups),
        ..summarize_runs(runs, record.batch_size)?
    })
}

/// Figures over `runs`, but for those that need more than the runs; `None` without any.
fn summarize_runs(runs: Vec<&RunRecord>, batch_size: usize) -> Option<Metrics> {
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
    Some(Metrics {
        inference_time: of(|run| run.timings.total().as_secs_f64())?,
        time_to_first_token: prefill,
        prefill_time: prefill,
        decode_time_per_token: median(&steps),
        decode_time_per_batch_token: median(&steps).map(|step| step / batch_size as f64).into(),
        batch_size: Some(batch_size),
        time_per_token: of(|run| run.timings.time_per_token())?,
        generated_tokens: tokens as f64 / runs.len() as f64,
        energy_per_token_joules: energy.map(|joules| joules / (tokens * batch_size) as f64),
        runs: runs.len(),
        roofline: None,
        base_inference_time: Maybe::Absent,
        inference_overhead_pct: Maybe::Absent,
    })
}

/// One entry for each prompt, with every run.
pub(super) fn samples(record: &SubjectRecord, group: PromptGroup) -> Vec<Sample> {
    let mut prompts: Vec<usize> = record.runs_of(group).map(|run| run.prompt).collect();
    // With a target precision, further rounds come back to every prompt.
    prompts.sort_unstable();
    prompts.dedup();
    let sample = |prompt: usize| {
        let runs = || record.runs_of(group).filter(|run| run.prompt == prompt);
        let metrics = summarize_runs(runs().collect(), record.batch_size)?;
        let totals: Vec<f64> = runs()
            .map(|run| run.timings.total().as_secs_f64())
            .collect();
        Some(Sample {
            prompt,
            prompt_tokens: runs().next().map(|run| run.prompt_tokens),
            inference_time: metrics.inference_time,
            generated_tokens: metrics.generated_tokens,
            time_per_token: metrics.time_per_token,
            outliers: find_outliers(&totals),
            individual_runs: runs().map(individual_run).collect(),
        })
    };
    prompts.into_iter().filter_map(sample).collect()
}

fn individual_run(run: &RunRecord) -> Run {
    let timings = &run.timings;
    let steps = timings.decode_steps.iter();
    Run {
        start: Some(run.start),
        inference_time: timings.total().as_secs_f64(),
        generated_tokens: timings.new_tokens(),
        time_per_token: timings.time_per_token(),
        time_to_first_token: timings.time_to_first_token.as_secs_f64(),
        memory_bytes_per_second: run.memory_rate.into(),
        decode_steps: steps.map(std::time::Duration::as_secs_f64).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::comparison::measured;
    use crate::measure::record::scripted as record;
    use crate::measure::subject::Subject;

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
        assert_eq!(
            metrics.decode_time_per_batch_token,
            Maybe::Value(0.005 / 4.0)
        );
        record.runs[2].energy_joules = None;
        assert_eq!(energy(&record), None);
    }

    #[test]
    fn every_run_is_kept() {
        let samples = samples(
            &record(Subject::Base, 1),
            PromptGroup::Category(crate::prompts::Category::Short),
        );
        assert_eq!(samples.len(), 1);
        assert_eq!(samples[0].individual_runs.len(), 5);
        assert_eq!(samples[0].individual_runs[0].decode_steps.len(), 3);
    }
}
