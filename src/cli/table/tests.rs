use std::collections::BTreeMap;

use super::*;
use crate::engine::StepGraph;
use crate::measure::break_even::{BreakEven, GroupBreakEven, Verdict};
use crate::measure::executed::ExecutedGraph;
use crate::measure::record::scripted;
use crate::prepared::Variant;
use crate::prompts::Category;

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
        (Variant::Base, graph(&[("CPU", 9)], 0)),
        (Variant::Unmerged, graph(&[("CPU", 1), ("CUDA", 8)], 2)),
    ]);
    let step = |(variant, graph)| (variant, BTreeMap::from([("step".to_owned(), graph)]));
    let graphs = graphs.into_iter().map(step).collect();
    assert_eq!(
        executed("", &graphs),
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
    assert_eq!(
        step_graphs("", &records),
        "unmerged  its decode steps are no CUDA graph: no\n"
    );
}

#[test]
fn groups_that_agree_on_the_break_even_share_a_line() {
    let text = break_even("", &found([Verdict::NotDetected; 3]));
    assert_eq!(text.lines().count(), 1);
    assert!(text.ends_with("0.50 s more than unmerged: no saving detected\n"));

    let after = Verdict::After {
        tokens: 12_345.6,
        interval: [987.0, 1e6],
    };
    let text = break_even("", &found([Verdict::Never, Verdict::Never, after]));
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
        render(&records, true, 1)
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
