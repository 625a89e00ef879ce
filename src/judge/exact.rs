//! Figures that don't depend on the machine's state: on the same engine and kind of processor, two
//! measurements of the same program have the same.

use std::collections::BTreeMap;

use super::figure::{Figure, Kind, Outcome, Unit};
use super::{Pair, reports};
use crate::measure::executed::ExecutedGraph;
use crate::measure::subject::Subject;
use crate::report::model::{Report, Variant};

/// Which of two values is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Good {
    Less,
    More,
    /// A difference means that something else was measured.
    Equal,
}

/// A figure of a result.
struct OfReport {
    name: &'static str,
    unit: Unit,
    good: Good,
    value: fn(&Report) -> Option<f64>,
}

/// A figure of a variant.
struct OfVariant {
    name: &'static str,
    unit: Unit,
    good: Good,
    value: fn(&Variant) -> Option<f64>,
}

const MIB: f64 = 1_048_576.0;

const OF_REPORT: &[OfReport] = &[
    OfReport {
        name: "trainable parameters",
        unit: Unit::Count,
        good: Good::Less,
        value: |of| Some(of.meta_info.parameters?.trainable_params as f64),
    },
    OfReport {
        name: "parameters",
        unit: Unit::Count,
        good: Good::Less,
        value: |of| Some(of.meta_info.parameters?.total_params as f64),
    },
    OfReport {
        name: "adapter",
        unit: Unit::Bytes,
        good: Good::Less,
        value: |of| Some((of.meta_info.model_size?.adapter_size_mb * MIB).round()),
    },
    OfReport {
        name: "adapter's bytes a step",
        unit: Unit::Bytes,
        good: Good::Less,
        value: |of| Some(*of.meta_info.adapter_bytes_per_token.value()? as f64),
    },
    OfReport {
        name: "quantized weights",
        unit: Unit::Bytes,
        good: Good::Less,
        value: |of| Some((of.meta_info.quantization.value()?.quantized_size_mb * MIB).round()),
    },
    OfReport {
        name: "adapter's tensors",
        unit: Unit::Count,
        good: Good::Less,
        value: |of| Some(of.generation_info.parity.value()?.adapter_tensors? as f64),
    },
    OfReport {
        name: "same tokens, merged and unmerged",
        unit: Unit::Count,
        good: Good::More,
        value: |of| Some(of.generation_info.parity.value()?.same_tokens? as f64),
    },
];

const OF_VARIANT: &[OfVariant] = &[
    OfVariant {
        name: "memory copies, prompt",
        unit: Unit::Count,
        good: Good::Less,
        value: |of| Some(session(of, "prompt")?.memory_copies as f64),
    },
    OfVariant {
        name: "memory copies, step",
        unit: Unit::Count,
        good: Good::Less,
        value: |of| Some(session(of, "step")?.memory_copies as f64),
    },
    OfVariant {
        name: "bytes a step",
        unit: Unit::Bytes,
        good: Good::Less,
        value: |of| Some(of.overall.as_ref()?.roofline?.bytes_per_step),
    },
    OfVariant {
        name: "arena, most in use",
        unit: Unit::Bytes,
        good: Good::Less,
        value: |of| {
            let stages = of.memory.memory_logs.iter();
            let most = stages.filter_map(|stage| Some(stage.arena.value()?.max_in_use_mb));
            Some((most.reduce(f64::max)? * MIB).round())
        },
    },
    OfVariant {
        name: "tokens of the prompts",
        unit: Unit::Count,
        good: Good::Equal,
        value: |of| {
            let counts = of.samples().map(|sample| sample.prompt_tokens);
            let total: usize = counts.sum::<Option<usize>>()?;
            Some(total as f64)
        },
    },
    OfVariant {
        name: "tokens generated",
        unit: Unit::Count,
        good: Good::Equal,
        value: |of| Some(of.overall.as_ref()?.generated_tokens),
    },
];

/// All of them that both sides have, or only the older one.
pub(super) fn figures(pair: &Pair) -> Vec<Figure> {
    let mut found = Vec::new();
    for row in OF_REPORT {
        let values = sides(pair, row.value);
        found.extend(figure(row.name, row.unit, row.good, values));
    }
    // It's measured to compare it with the base; its own figures are the base's.
    let again = Subject::BaseAgain.name();
    for variant in pair.variants().into_iter().filter(|name| *name != again) {
        let named = |figure: Figure| Figure {
            variant: Some(variant.to_owned()),
            ..figure
        };
        for (name, which) in [("nodes, prompt", "prompt"), ("nodes, step", "step")] {
            let graphs = [&pair.old, &pair.new].map(|side| {
                let graphs = reports(side).filter_map(|report| {
                    let variant = report.generation_info.measured(variant)?;
                    session(variant, which)
                });
                graphs.collect::<Vec<_>>()
            });
            found.extend(nodes(name, &graphs[0], &graphs[1]).map(named));
        }
        for row in OF_VARIANT {
            let values = sides(pair, |report| {
                (row.value)(report.generation_info.measured(variant)?)
            });
            found.extend(figure(row.name, row.unit, row.good, values).map(named));
        }
    }
    found
}

fn session<'a>(variant: &'a Variant, name: &str) -> Option<&'a ExecutedGraph> {
    variant.executed.value()?.get(name)
}

/// The values of all starts, by side.
fn sides(pair: &Pair, value: impl Fn(&Report) -> Option<f64>) -> [Vec<f64>; 2] {
    [&pair.old, &pair.new].map(|side| reports(side).filter_map(&value).collect())
}

/// `None` if the older side doesn't have it: it's of an earlier version, or there's none.
fn figure(name: &'static str, unit: Unit, good: Good, values: [Vec<f64>; 2]) -> Option<Figure> {
    let [old, new] = &values;
    let first = *old.first()?;
    let figure = Figure::new(name, Kind::Exact, unit);
    let Some(&last) = new.first() else {
        return Some(Figure {
            note: Some("NEW doesn't say".to_owned()),
            ..figure.with_values(Some(first), None)
        });
    };
    let figure = figure.with_values(Some(first), Some(last));
    let differs = |side: &[f64]| side.iter().any(|value| !equal(*value, side[0]));
    if differs(old) || differs(new) {
        return Some(Figure {
            note: Some("it differs between the starts of a side".to_owned()),
            ..figure
        });
    }
    let is_better = match good {
        Good::Less => last < first,
        Good::More => last > first,
        Good::Equal => false,
    };
    let outcome = match (equal(first, last), is_better, good) {
        (true, ..) | (_, true, _) => Outcome::NoWorse,
        (.., Good::Equal) => Outcome::CannotTell,
        _ => Outcome::Worse,
    };
    let better = is_better && !equal(first, last);
    Some(Figure {
        outcome,
        better,
        ..figure
    })
}

/// Means over prompts are equal but for their last digit.
fn equal(one: f64, other: f64) -> bool {
    (one - other).abs() <= 1e-12 * one.abs().max(other.abs())
}

/// Nodes that ran. As many of other operators can't be told from a counter.
fn nodes(name: &'static str, old: &[&ExecutedGraph], new: &[&ExecutedGraph]) -> Option<Figure> {
    let total = |graph: &&ExecutedGraph| graph.nodes.values().sum::<usize>() as f64;
    let totals = [old, new].map(|graphs| graphs.iter().map(total).collect());
    let mut found = figure(name, Unit::Count, Good::Less, totals)?;
    let (Some(first), Some(last)) = (old.first(), new.first()) else {
        return Some(found);
    };
    let changes = operators(first, last);
    if !changes.is_empty() {
        found.note = Some(changes.join(", "));
        if found.old == found.new {
            found.outcome = Outcome::CannotTell;
        }
    }
    Some(found)
}

/// Which operators are more or fewer, as `Cast +2`.
fn operators(old: &ExecutedGraph, new: &ExecutedGraph) -> Vec<String> {
    let mut counts: BTreeMap<(&str, &str), [usize; 2]> = BTreeMap::new();
    for (side, graph) in [old, new].into_iter().enumerate() {
        for (provider, operators) in &graph.operators {
            for (operator, count) in operators {
                counts.entry((provider, operator)).or_default()[side] += count;
            }
        }
    }
    let several = counts.keys().any(|(provider, _)| {
        let first = counts.keys().next();
        first.is_some_and(|(other, _)| provider != other)
    });
    let changed = counts.iter().filter(|(_, [old, new])| old != new);
    changed
        .map(|((provider, operator), [old, new])| {
            let change = *new as i64 - *old as i64;
            match several {
                true => format!("{operator} {change:+} ({provider})"),
                false => format!("{operator} {change:+}"),
            }
        })
        .collect()
}
