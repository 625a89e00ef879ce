use std::collections::BTreeMap;

use super::*;
use crate::engine::StepGraph;
use crate::measure::break_even::{BreakEven, GroupBreakEven, Verdict};
use crate::measure::executed::ExecutedGraph;
use crate::measure::prompt_group::PromptGroup;
use crate::measure::record::{SubjectRecord, scripted};
use crate::measure::subject::Subject;
use crate::measure::sweep::SweepRun;
use crate::prepared;
use crate::prompts::Category;
use crate::report::build::scripted::report;
use crate::report::model::Maybe;

fn alone<'a>(report: &'a Report) -> [Labelled<'a>; 1] {
    [Labelled {
        name: "lora--lora",
        label: "lora",
        report,
    }]
}

fn found(verdicts: [Verdict; 3]) -> BreakEven {
    let groups = Category::ALL.into_iter().zip(verdicts);
    BreakEven {
        extra_seconds: 0.5,
        groups: groups
            .map(|(category, verdict)| GroupBreakEven {
                group: PromptGroup::Category(category),
                saving_per_token: 0.0,
                saving_interval: None,
                verdict,
            })
            .collect(),
    }
}

#[test]
fn where_nodes_ran_is_told_if_it_is_not_all_in_one_place() {
    let graph = |nodes: &[(&str, usize)], memory_copies| ExecutedGraph {
        nodes: nodes
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect(),
        memory_copies,
        ..ExecutedGraph::default()
    };
    let graphs = BTreeMap::from([
        (prepared::Variant::Base, graph(&[("CPU", 9)], 0)),
        (
            prepared::Variant::Unmerged,
            graph(&[("CPU", 1), ("CUDA", 8)], 2),
        ),
    ]);
    let step = |(variant, graph)| (variant, BTreeMap::from([("step".to_owned(), graph)]));
    let graphs = graphs.into_iter().map(step).collect();
    let records = [Subject::Base, Subject::Unmerged].map(|subject| scripted(subject, 1));
    let report = report(&records, &[], Some(&graphs));
    assert_eq!(
        notes::executed("", &report.generation_info),
        "unmerged  the nodes of its step ran 1 on CPU, 8 on CUDA; 2 of them copy between host and device\n"
    );
}

#[test]
fn a_variant_without_the_cuda_graph_that_was_asked_for_is_named() {
    let record = |subject, step_graph| SubjectRecord {
        step_graph,
        ..scripted(subject, 1)
    };
    let records = [
        record(Subject::Base, None),
        record(Subject::Merged, Some(StepGraph::Captured)),
        record(Subject::Unmerged, Some(StepGraph::Refused("no".to_owned()))),
    ];
    let report = report(&records, &[], None);
    assert_eq!(
        notes::step_graphs("", &report.generation_info),
        "unmerged  its decode steps are no CUDA graph: no\n"
    );
}

#[test]
fn groups_that_agree_on_the_break_even_share_a_line() {
    let text = break_even::break_even("", &found([Verdict::NotDetected; 3]));
    assert_eq!(text.lines().count(), 1);
    assert!(text.ends_with("0.50 s more than unmerged: no saving detected\n"));

    let after = Verdict::After {
        tokens: 12_345.6,
        interval: [987.0, 1e6],
    };
    let text = break_even::break_even("", &found([Verdict::Never, Verdict::Never, after]));
    assert!(text.contains("short, medium: never"), "{text}");
    assert!(
        text.contains("long: paid back after 12\u{202f}000 tokens (990 … 1\u{202f}000\u{202f}000)"),
        "{text}"
    );
}

#[test]
fn few_pairs_are_said_whatever_their_interval() {
    let runs = |subject, times: u32, count: usize| {
        let mut record = scripted(subject, times);
        record.runs.retain(|run| run.run < count);
        record
    };
    let text = |count| {
        let records = [
            runs(Subject::Base, 1, count),
            runs(Subject::Merged, 2, count),
            runs(Subject::BaseAgain, 2, count),
        ];
        figures(&alone(&report(&records, &[], None)))
    };
    let few = text(4);
    let expected = "too few pairs to tell: 4 where 5 are needed (`num_inference_runs`)";
    assert_eq!(few.matches(expected).count(), 2, "{few}");
    assert!(!few.contains("no difference detected") && !few.contains("something favours"));
    assert_eq!(text(1).matches("too few").count(), 2);
    let enough = text(5);
    assert!(
        !enough.contains("too few") && enough.contains("something favours"),
        "{enough}"
    );
}

#[test]
fn stalled_runs_and_slow_first_ones_are_told() {
    let mut record = scripted(Subject::Base, 1);
    let stall = std::time::Duration::from_secs(9);
    record.runs[0].timings.time_to_first_token = stall;
    let report = report(&[record], &[], None);
    assert_eq!(
        caveats::caveats(&measured(&alone(&report)), &report),
        "warning: 1 of 5 runs of `base` is far from the others of their prompt\n\
         warning: the first run of 1 prompt was slow with `base`; warming up may have been too short\n"
    );
}

#[test]
fn a_variant_that_ended_before_the_last_prompts_has_no_overall_overhead() {
    let mut base = scripted(Subject::Base, 1);
    let mut later = base.runs.clone();
    for run in &mut later {
        run.group = PromptGroup::Category(Category::Long);
    }
    base.runs.extend(later);
    let records = [base, scripted(Subject::Merged, 2)];
    let text = figures(&alone(&report(&records, &[], None)));
    assert!(
        text.contains("merged") && !text.contains("over all prompts"),
        "{text}"
    );
}

#[test]
fn several_share_the_base_and_have_fewer_columns() {
    let [base, again] = [Subject::Base, Subject::BaseAgain].map(|subject| scripted(subject, 1));
    let own = |times| {
        let own = scripted(Subject::Merged, times);
        report(&[base.clone(), own, again.clone()], &[], None)
    };
    let (one, two) = (own(2), own(3));
    let results = [("a--one", "one", &one), ("a--two", "two", &two)];
    let results = results.map(|(name, label, report)| Labelled {
        name,
        label,
        report,
    });
    let text = measurement(&results, false);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("2 experiments on "), "{text}");
    let words: Vec<&str> = lines[3].split("  ").map(str::trim).collect();
    let headings: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    assert_eq!(
        headings.join(", "),
        "prompts, variant, first token, a token, overhead, 95 % interval, peak memory"
    );
    let names: Vec<&str> = lines[4..8].iter().map(|line| line[9..19].trim()).collect();
    assert_eq!(names, ["base", "one merged", "two merged", "base-again"]);
}

#[test]
fn a_batch_size_that_failed_for_all_is_named() {
    let records = vec![SubjectRecord {
        runs: Vec::new(),
        error: Some("no memory".to_owned()),
        ..scripted(Subject::Base, 1)
    }];
    let runs = [SweepRun {
        batch_size: 8,
        records,
        paired: true,
    }];
    let report = report(&[scripted(Subject::Base, 1)], &runs, None);
    let entry = &report.generation_info.sweep.as_ref().unwrap()[0];
    assert_eq!((entry.batch_size, &entry.prompts), (8, &None));
    let text = sweep(&alone(&report));
    assert!(
        text.contains("base  failed with batches of 8: no memory\n"),
        "{text}"
    );
}

#[test]
fn the_first_batch_size_of_a_sweep_has_the_overheads_of_the_main_measurement() {
    let records = vec![scripted(Subject::Base, 1), scripted(Subject::Merged, 2)];
    let runs = [SweepRun {
        batch_size: 1,
        records: records.clone(),
        paired: true,
    }];
    let report = report(&records, &runs, None);
    let main = report.generation_info.measured("merged").unwrap();
    let main = main
        .overhead_pct
        .as_ref()
        .unwrap()
        .by_category
        .get("short")
        .unwrap();
    let entry = &report.generation_info.sweep.as_ref().unwrap()[0];
    let swept = &entry.variants.get("merged").unwrap().overhead_pct;
    assert_eq!(*swept, Maybe::from(*main));
    assert_eq!(
        entry.variants.get("base").unwrap().overhead_pct,
        Maybe::Absent
    );
}
