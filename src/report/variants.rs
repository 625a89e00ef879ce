//! Many results, one row for each variant that was measured.

use super::comparable::written;
use super::model::{Metrics, Report, Variant};
use super::table::{Heading, Scale, Unit, Value};
use crate::measure::break_even::Verdict;
use crate::measure::stats::quantile;

/// A variant of a result.
#[derive(Debug, Clone, Copy)]
pub struct VariantRow<'a> {
    /// `<method>--<name>`
    pub name: &'a str,
    /// The result.
    pub report: &'a Report,
    /// The variant; `None` if the run ended before any was measured.
    pub variant: Option<(&'a str, &'a Variant)>,
}

/// A column of the table of variants.
#[derive(Debug)]
pub struct VariantColumn {
    /// What it holds.
    pub heading: Heading,
    /// Which values are better.
    pub better: Option<Better>,
    /// Whether it's shown if nobody chooses columns.
    pub is_usual: bool,
    /// A row's value.
    pub value: fn(&VariantRow) -> Value,
}

/// Which of two values is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// The lower one.
    Lower,
    /// The higher one.
    Higher,
}

/// A row for each variant of `report`, or one if there are none.
pub fn variant_rows<'a>(name: &'a str, report: &'a Report) -> Vec<VariantRow<'a>> {
    let row = |variant| VariantRow {
        name,
        report,
        variant,
    };
    let rows: Vec<VariantRow> = report
        .generation_info
        .all_measured()
        .map(|found| row(Some(found)))
        .collect();
    match rows.is_empty() {
        true => vec![row(None)],
        false => rows,
    }
}

const MS: Unit = Unit::Time(Scale::Milliseconds);
const LOW: Option<Better> = Some(Better::Lower);

/// The columns of the table of variants. The first names a row's result.
pub const VARIANTS: &[VariantColumn] = &[
    text(
        "experiment",
        "experiment",
        true,
        "the experiment, or whatever else was measured",
        |row| Value::Text(row.short_name().to_owned()),
    ),
    text("method", "method", true, "the PEFT method", |row| {
        row.method().into()
    }),
    text(
        "variant",
        "variant",
        true,
        "base: without the adapter; merged: the adapter is part of the weights; unmerged: it is computed beside them",
        |row| row.variant.map(|(name, _)| name).into(),
    ),
    VariantColumn {
        heading: Heading {
            key: "overhead_pct",
            heading: "overhead",
            unit: Unit::PercentWithInterval,
            meaning: "what the variant costs over the base, in percent of a generation's whole time over all prompts, with its 95 % interval",
        },
        better: LOW,
        is_usual: true,
        value: |row| row.found().and_then(Variant::overall_overhead).into(),
    },
    number(
        "inference_time",
        "total",
        MS,
        false,
        "one generation, the first token and all steps, median over all prompts",
        |row| row.metrics().map(|of| of.inference_time).into(),
    ),
    number(
        "time_to_first_token",
        "first token",
        MS,
        true,
        "from the prompt's token ids to the first new token's id, median over all prompts",
        |row| row.metrics().map(|of| of.time_to_first_token).into(),
    ),
    number(
        "first_token_p90",
        "first token p90",
        MS,
        false,
        "90 % of the generations had their first token within this time",
        |row| row.first_tokens(0.9),
    ),
    number(
        "first_token_p95",
        "first token p95",
        MS,
        false,
        "95 % of the generations had their first token within this time",
        |row| row.first_tokens(0.95),
    ),
    number(
        "first_token_p99",
        "first token p99",
        MS,
        false,
        "99 % of the generations had their first token within this time",
        |row| row.first_tokens(0.99),
    ),
    number(
        "decode_p50",
        "step p50",
        MS,
        true,
        "half of all decode steps took no longer. A step makes a token of every sequence of the batch",
        |row| row.steps(0.5),
    ),
    number(
        "decode_p90",
        "step p90",
        MS,
        false,
        "90 % of all decode steps took no longer",
        |row| row.steps(0.9),
    ),
    number(
        "decode_p95",
        "step p95",
        MS,
        false,
        "95 % of all decode steps took no longer",
        |row| row.steps(0.95),
    ),
    number(
        "decode_p99",
        "step p99",
        MS,
        true,
        "99 % of all decode steps took no longer",
        |row| row.steps(0.99),
    ),
    number(
        "decode_time_per_batch_token",
        "step per token",
        MS,
        false,
        "the median decode step over the batch's size",
        |row| {
            row.metrics()
                .and_then(Metrics::seconds_per_batch_token)
                .into()
        },
    ),
    number(
        "time_per_token",
        "a token",
        MS,
        true,
        "a generation's whole time over its tokens, median over all prompts, as in PEFT's suite",
        |row| row.metrics().map(|of| of.time_per_token).into(),
    ),
    VariantColumn {
        heading: Heading {
            key: "roofline_pct",
            heading: "roofline",
            unit: Unit::Percent,
            meaning: "how much of a decode step memory needs at least: its bytes at the best rate that was read in a run. Above 100 % memory was \
                      quicker than that reading",
        },
        better: Some(Better::Higher),
        is_usual: false,
        value: |row| {
            row.metrics()
                .and_then(|of| of.roofline)
                .map(|of| of.decode_pct)
                .into()
        },
    },
    number(
        "energy_per_token_joules",
        "energy a token",
        Unit::Joules,
        false,
        "energy of all generations over all of their tokens",
        |row| {
            row.metrics()
                .and_then(|of| of.energy_per_token_joules)
                .into()
        },
    ),
    number(
        "peak_memory_mb",
        "peak memory",
        Unit::Mebibytes,
        true,
        "the most memory while generating: on the accelerator if there is one, else resident, mapped weights included",
        |row| row.peak_mb().into(),
    ),
    number(
        "peak_anonymous_mb",
        "own memory",
        Unit::Mebibytes,
        false,
        "the most memory while generating without pages of files, which processes share",
        |row| {
            row.found()
                .and_then(|of| of.memory.peak_anonymous_memory_mb)
                .into()
        },
    ),
    number(
        "trainable_params",
        "trainable",
        Unit::Count,
        true,
        "trainable parameters, as PEFT counts them",
        |row| {
            row.report
                .meta_info
                .parameters
                .map(|of| of.trainable_params as f64)
                .into()
        },
    ),
    number(
        "adapter_size_mb",
        "adapter",
        Unit::Mebibytes,
        false,
        "size of the adapter's tensors",
        |row| {
            row.report
                .meta_info
                .model_size
                .map(|of| of.adapter_size_mb)
                .into()
        },
    ),
    number(
        "nodes_per_step",
        "nodes a step",
        Unit::Count,
        false,
        "nodes of the graph that ran in a decode step",
        |row| row.nodes_per_step().map(|count| count as f64).into(),
    ),
    number(
        "prepare_seconds",
        "prepared in",
        Unit::Time(Scale::Seconds),
        false,
        "merging and exporting",
        |row| row.found().and_then(|of| of.prepare_seconds).into(),
    ),
    number(
        "session_seconds",
        "opened in",
        Unit::Time(Scale::Seconds),
        false,
        "opening the session",
        |row| row.found().map(|of| of.session_seconds).into(),
    ),
    number(
        "break_even_tokens",
        "break-even, tokens",
        Unit::Count,
        false,
        "of merged: generated tokens after which merging has paid for itself, with those prompts on which it takes longest. None if it never \
         pays, or no saving was detected",
        |row| row.break_even_tokens().into(),
    ),
    text(
        "parity",
        "parity",
        false,
        "by how much of the largest logit merged and unmerged differ",
        |row| row.parity().as_deref().into(),
    ),
    text(
        "form",
        "form",
        false,
        "the nodes of the unmerged adapter: reduced or native",
        |row| {
            let form = row.report.meta_info.adapter_form.value();
            form.map(written).as_deref().into()
        },
    ),
    text("status", "status", false, "how the run ended", |row| {
        Value::Text(written(&row.report.run_info.status))
    }),
    text(
        "timestamp",
        "measured",
        false,
        "when the run began, UTC",
        |row| Value::Text(row.report.run_info.timestamp.clone()),
    ),
];

const fn text(
    key: &'static str,
    heading: &'static str,
    is_usual: bool,
    meaning: &'static str,
    value: fn(&VariantRow) -> Value,
) -> VariantColumn {
    VariantColumn {
        heading: Heading {
            key,
            heading,
            unit: Unit::Text,
            meaning,
        },
        better: None,
        is_usual,
        value,
    }
}

/// A number of which less is better.
const fn number(
    key: &'static str,
    heading: &'static str,
    unit: Unit,
    is_usual: bool,
    meaning: &'static str,
    value: fn(&VariantRow) -> Value,
) -> VariantColumn {
    VariantColumn {
        heading: Heading {
            key,
            heading,
            unit,
            meaning,
        },
        better: LOW,
        is_usual,
        value,
    }
}

impl VariantRow<'_> {
    fn found(&self) -> Option<&Variant> {
        self.variant.map(|(_, found)| found)
    }

    fn metrics(&self) -> Option<&Metrics> {
        self.found()?.overall.as_ref()
    }

    /// The name without the method, which has a column of its own.
    pub(super) fn short_name(&self) -> &str {
        self.name
            .split_once("--")
            .map_or(self.name, |(_, name)| name)
    }

    fn method(&self) -> Option<&str> {
        self.report.run_info.peft_config.as_ref()?["peft_type"].as_str()
    }

    fn steps(&self, share: f64) -> Value {
        let runs = self
            .found()
            .into_iter()
            .flat_map(Variant::samples)
            .flat_map(|of| &of.individual_runs);
        let steps: Vec<f64> = runs
            .flat_map(|run| run.decode_steps.iter().copied())
            .collect();
        quantile(&steps, share).into()
    }

    fn first_tokens(&self, share: f64) -> Value {
        let runs = self
            .found()
            .into_iter()
            .flat_map(Variant::samples)
            .flat_map(|of| &of.individual_runs);
        let times: Vec<f64> = runs.map(|run| run.time_to_first_token).collect();
        quantile(&times, share).into()
    }

    fn peak_mb(&self) -> Option<f64> {
        let memory = &self.found()?.memory;
        let accelerator = memory.peak_accelerator_memory_mb;
        let peak = accelerator.unwrap_or(memory.peak_ram_memory_mb);
        // Without a stage, memory was never read.
        (!memory.memory_logs.is_empty()).then_some(peak)
    }

    fn nodes_per_step(&self) -> Option<usize> {
        let executed = self.found()?.executed.value()?;
        Some(executed.get("step")?.nodes.values().sum())
    }

    /// The most over all groups of prompts, if merging pays with each.
    fn break_even_tokens(&self) -> Option<f64> {
        let (name, _) = self.variant?;
        let found = self
            .report
            .generation_info
            .break_even
            .value()
            .filter(|_| name == "merged")?;
        let tokens = found.groups.iter().map(|group| match group.verdict {
            Verdict::AtOnce => Some(0.0),
            Verdict::After { tokens, .. } => Some(tokens),
            Verdict::Never | Verdict::NotDetected | Verdict::TooFewPairs => None,
        });
        tokens
            .collect::<Option<Vec<f64>>>()?
            .into_iter()
            .reduce(f64::max)
    }

    fn parity(&self) -> Option<String> {
        let parity = self.report.generation_info.parity.value()?;
        match (parity.passed, parity.merged_vs_unmerged) {
            (false, _) => Some("failed".to_owned()),
            (true, Some(difference)) => Some(format!("ok, {difference:.0e}")),
            (true, None) => Some("ok".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn columns_have_keys_of_their_own_and_are_in_the_docs() {
        let keys: BTreeSet<&str> = VARIANTS.iter().map(|of| of.heading.key).collect();
        assert_eq!(keys.len(), VARIANTS.len());
        let docs = include_str!("../../docs/page.md");
        for VariantColumn { heading, .. } in VARIANTS {
            let Heading {
                key,
                heading: name,
                meaning,
                ..
            } = heading;
            let start = format!("| `{key}` | {name} |");
            let line = docs.lines().find(|line| line.starts_with(&start));
            let line = line.unwrap_or_else(|| panic!("docs/page.md has no line {start}"));
            assert!(line.ends_with(&format!("| {meaning} |")), "{line}");
        }
    }
}
