//! Every column of every table. Another metric is another entry here, and whatever computes it.

use super::measured::{MeasuredRow, Shape};
use super::overview::OverviewRow;
use super::table::{Heading, Scale, Unit, Value};

/// A column of the tables of one measurement.
pub(super) struct MeasuredColumn {
    /// What it holds.
    pub heading: Heading,
    /// Which tables show it.
    pub shown: fn(Shape) -> bool,
    /// A row's value.
    pub value: fn(&MeasuredRow) -> Value,
}

/// A column of the table of many results.
pub(super) struct OverviewColumn {
    /// What it holds.
    pub heading: Heading,
    /// A row's value.
    pub value: fn(&OverviewRow) -> Value,
}

/// One row for each variant and group of prompts; in a sweep, for each batch size as well.
pub(super) const MEASURED: &[MeasuredColumn] = &[
    MeasuredColumn {
        heading: Heading {
            key: "batch_size",
            heading: "batch",
            unit: Unit::Name,
            meaning: "sequences that are generated at once",
        },
        shown: |of| of.is_sweep,
        value: |row| Value::Text(row.batch_size.to_string()),
    },
    MeasuredColumn {
        heading: Heading {
            key: "prompts",
            heading: "prompts",
            unit: Unit::Name,
            meaning: "the group of prompts: a category, or a number of tokens",
        },
        shown: |_| true,
        value: |row| Value::Text(row.prompts.to_owned()),
    },
    MeasuredColumn {
        heading: Heading {
            key: "variant",
            heading: "variant",
            unit: Unit::Name,
            meaning: "what was measured",
        },
        shown: |_| true,
        value: |row| Value::Text(row.variant.clone()),
    },
    MeasuredColumn {
        heading: Heading {
            key: "time_to_first_token",
            heading: "first token",
            unit: Unit::Time(Scale::Fitting),
            meaning: "from the prompt's token ids to the first new token's id, median",
        },
        shown: |_| true,
        value: |row| Value::Number(row.metrics.time_to_first_token),
    },
    MeasuredColumn {
        heading: Heading {
            key: "decode_time_per_token",
            heading: "a step",
            unit: Unit::Time(Scale::Fitting),
            meaning: "one decode step, which makes a token of every sequence of the batch, median",
        },
        shown: |of| of.is_sweep || of.is_batched,
        value: |row| row.metrics.decode_time_per_token.into(),
    },
    MeasuredColumn {
        heading: Heading {
            key: "decode_time_per_batch_token",
            heading: "a token",
            unit: Unit::Time(Scale::Fitting),
            meaning: "one decode step over the batch's size, median",
        },
        shown: |of| of.is_sweep || !of.is_batched,
        value: |row| row.metrics.seconds_per_batch_token().into(),
    },
    MeasuredColumn {
        heading: Heading {
            key: "roofline_pct",
            heading: "roofline",
            unit: Unit::Percent,
            meaning: "the part of a decode step that memory needs at least, at the best rate that was read; 100 % is as fast as memory allows",
        },
        shown: |of| !of.is_sweep && !of.has_several,
        value: |row| row.metrics.roofline.map(|of| of.decode_pct).into(),
    },
    MeasuredColumn {
        heading: Heading {
            key: "inference_time",
            heading: "total",
            unit: Unit::Time(Scale::Fitting),
            meaning: "one generation, the first token and all steps, median",
        },
        shown: |of| !of.is_sweep && !of.has_several,
        value: |row| Value::Number(row.metrics.inference_time),
    },
    MeasuredColumn {
        heading: Heading {
            key: "overhead_pct",
            heading: "overhead",
            unit: Unit::PercentWithInterval,
            meaning: "what the variant costs, in percent of the base's whole time",
        },
        shown: |_| true,
        value: |row| row.overhead.into(),
    },
    MeasuredColumn {
        heading: Heading {
            key: "peak_memory_mb",
            heading: "peak memory",
            unit: Unit::Mebibytes,
            meaning: "the most memory while generating, on the accelerator if there is one",
        },
        shown: |of| !of.is_sweep || !of.has_several,
        value: |row| row.peak_mb.into(),
    },
    MeasuredColumn {
        heading: Heading {
            key: "protocol",
            heading: "protocol",
            unit: Unit::Text,
            meaning: "what a graph does besides, where it's run as it was exported: logits of all positions of a prompt, a copied cache",
        },
        shown: |of| of.has_exported && !of.is_sweep,
        value: |row| row.protocol.as_deref().into(),
    },
];

/// One row for each result.
pub(super) const OVERVIEW: &[OverviewColumn] = &[
    OverviewColumn {
        heading: Heading {
            key: "experiment",
            heading: "experiment",
            unit: Unit::Name,
            meaning: "the experiment, or whatever else was measured",
        },
        value: |row| Value::Text(row.name.clone()),
    },
    OverviewColumn {
        heading: Heading {
            key: "adapter_form",
            heading: "form",
            unit: Unit::Name,
            meaning: "the nodes of the unmerged adapter: reduced or native",
        },
        value: |row| row.adapter_form().into(),
    },
    OverviewColumn {
        heading: Heading {
            key: "trainable_params",
            heading: "trainable",
            unit: Unit::Count,
            meaning: "trainable parameters, as PEFT counts them",
        },
        value: |row| {
            let parameters = row.report.meta_info.parameters;
            parameters.map(|of| of.trainable_params as f64).into()
        },
    },
    OverviewColumn {
        heading: Heading {
            key: "unmerged_overhead_pct",
            heading: "unmerged",
            unit: Unit::PercentWithInterval,
            meaning: "what the unmerged variant costs over the base, over all prompts",
        },
        value: |row| row.estimate("unmerged"),
    },
    OverviewColumn {
        heading: Heading {
            key: "merged_overhead_pct",
            heading: "merged",
            unit: Unit::PercentWithInterval,
            meaning: "what the merged variant costs over the base, over all prompts",
        },
        value: |row| row.estimate("merged"),
    },
    OverviewColumn {
        heading: Heading {
            key: "time_to_first_token",
            heading: "first token",
            unit: Unit::Time(Scale::Milliseconds),
            meaning: "median of the unmerged variant over all prompts",
        },
        value: |row| row.metrics().map(|of| of.time_to_first_token).into(),
    },
    OverviewColumn {
        heading: Heading {
            key: "decode_time_per_token",
            heading: "a token",
            unit: Unit::Time(Scale::Milliseconds),
            meaning: "median decode step of the unmerged variant over all prompts",
        },
        value: |row| {
            let metrics = row.metrics();
            metrics.and_then(|of| of.decode_time_per_token).into()
        },
    },
    OverviewColumn {
        heading: Heading {
            key: "merging_seconds",
            heading: "merging",
            unit: Unit::Time(Scale::Seconds),
            meaning: "preparing the merged variant",
        },
        value: |row| {
            let merged = row.report.generation_info.measured("merged");
            merged.and_then(|merged| merged.prepare_seconds).into()
        },
    },
    OverviewColumn {
        heading: Heading {
            key: "parity",
            heading: "parity",
            unit: Unit::Text,
            meaning: "by how much of the largest logit merged and unmerged differ",
        },
        value: |row| row.parity().as_deref().into(),
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headings: &[&Heading]) {
        let docs = include_str!("../../docs/results.md");
        for (index, heading) in headings.iter().enumerate() {
            let Heading {
                key,
                heading: name,
                meaning,
                ..
            } = heading;
            let row = format!("| `{key}` | {name} | {meaning} |");
            assert!(docs.contains(&row), "docs/results.md has no line {row}");
            assert!(headings[..index].iter().all(|other| other.key != *key));
        }
    }

    #[test]
    fn columns_have_keys_of_their_own_and_are_in_the_docs() {
        check(&MEASURED.iter().map(|of| &of.heading).collect::<Vec<_>>());
        check(&OVERVIEW.iter().map(|of| &of.heading).collect::<Vec<_>>());
    }
}
