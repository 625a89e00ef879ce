//! The columns of the table of variants.

use super::paired::Part;
use super::{Better, VariantColumn, VariantRow, written};
use crate::report::model::{Metrics, Variant};
use crate::report::table::{Heading, Scale, Unit, Value};

const MS: Unit = Unit::Time(Scale::Milliseconds);
const LOW: Option<Better> = Some(Better::Lower);
const HIGH: Option<Better> = Some(Better::Higher);

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
        is_costly: false,
        value: |row| {
            let over = row.found().and_then(Variant::overall_overhead);
            row.estimate(over)
        },
    },
    VariantColumn {
        heading: Heading {
            key: "first_token_overhead_pct",
            heading: "first token overhead",
            unit: Unit::PercentWithInterval,
            meaning: "what the variant costs over the base, in percent of the time to the first token, with its 95 % interval, computed from the runs",
        },
        better: LOW,
        is_usual: false,
        is_costly: true,
        value: |row| row.overhead_of(Part::FirstToken),
    },
    VariantColumn {
        heading: Heading {
            key: "decode_overhead_pct",
            heading: "step overhead",
            unit: Unit::PercentWithInterval,
            meaning: "what the variant costs over the base, in percent of the runs' median decode steps, with its 95 % interval, computed from the runs",
        },
        better: LOW,
        is_usual: false,
        is_costly: true,
        value: |row| row.overhead_of(Part::Decode),
    },
    VariantColumn {
        heading: Heading {
            key: "starts",
            heading: "starts",
            unit: Unit::Count,
            meaning: "how often all processes were started anew (`--restarts`). From 3 on, intervals cover what differs between starts",
        },
        better: None,
        is_usual: false,
        is_costly: false,
        value: |row| row.starts().map(|count| count as f64).into(),
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
        "first_token_p50",
        "first token p50",
        MS,
        false,
        "half of the generations had their first token within this time",
        |row| row.first_tokens(0.5),
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
            key: "tokens_per_second",
            heading: "tokens/s",
            unit: Unit::PerSecond,
            meaning: "tokens of all sequences of the batch in a second of decoding, by the median decode step",
        },
        better: HIGH,
        is_usual: false,
        is_costly: false,
        value: |row| row.tokens_per_second().into(),
    },
    VariantColumn {
        heading: Heading {
            key: "roofline_pct",
            heading: "roofline",
            unit: Unit::Percent,
            meaning: "how much of a decode step memory needs at least: its bytes at the best rate that was read in the run",
        },
        better: HIGH,
        is_usual: false,
        is_costly: false,
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
            row.source
                .report
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
            row.source
                .report
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
    VariantColumn {
        heading: Heading {
            key: "parity_difference",
            heading: "difference",
            unit: Unit::Ratio,
            meaning: "by how much of the largest logit merged and unmerged differ, as a number",
        },
        better: LOW,
        is_usual: false,
        is_costly: false,
        value: |row| row.parity_difference().into(),
    },
    text(
        "form",
        "form",
        false,
        "the nodes of the unmerged adapter: reduced or native",
        |row| {
            let form = row.source.report.meta_info.adapter_form.value();
            form.map(written).as_deref().into()
        },
    ),
    VariantColumn {
        heading: Heading {
            key: "batch_size",
            heading: "batch",
            unit: Unit::Count,
            meaning: "sequences that are generated at once",
        },
        better: None,
        is_usual: false,
        is_costly: false,
        value: |row| Value::Number(row.batch_size() as f64),
    },
    text("model", "model", false, "the base model", |row| {
        row.condition("model")
    }),
    text(
        "weights",
        "base weights",
        false,
        "synthetic or trained",
        |row| row.condition("weights"),
    ),
    text(
        "adapter_weights",
        "adapter weights",
        false,
        "fresh or trained",
        |row| row.adapter_weights().as_deref().into(),
    ),
    text(
        "dtype",
        "dtype",
        false,
        "what weights are rounded to",
        |row| row.condition("dtype"),
    ),
    text(
        "quantization",
        "quantization",
        false,
        "what weights are quantized to",
        |row| row.condition("quantization"),
    ),
    text(
        "provider",
        "provider",
        false,
        "`cpu`, or `cuda:` and the device's number",
        |row| row.condition("provider"),
    ),
    VariantColumn {
        heading: Heading {
            key: "threads",
            heading: "threads",
            unit: Unit::Count,
            meaning: "threads of the CPU provider",
        },
        better: None,
        is_usual: false,
        is_costly: false,
        value: |row| Value::Number(row.source.report.run_info.session.threads as f64),
    },
    text("processor", "processor", false, "the processor", |row| {
        row.condition("processor")
    }),
    text(
        "accelerator",
        "accelerator",
        false,
        "the accelerator that was computed on",
        |row| row.condition("accelerator"),
    ),
    text("onnxruntime", "ONNX Runtime", false, "its version", |row| {
        row.condition("ONNX Runtime")
    }),
    text("status", "status", false, "how the run ended", |row| {
        Value::Text(written(&row.source.report.run_info.status))
    }),
    text(
        "timestamp",
        "measured",
        false,
        "when the run began, UTC",
        |row| Value::Text(row.source.report.run_info.timestamp.clone()),
    ),
    text("file", "file", false, "the result's file", |row| {
        Value::Text(row.source.file.to_owned())
    }),
    text(
        "error",
        "error",
        false,
        "why the run, or the variant, ended early",
        |row| row.error().into(),
    ),
    text(
        "warnings",
        "warnings",
        false,
        "reasons to distrust the figures, in a few words",
        |row| row.warnings().as_deref().into(),
    ),
    VariantColumn {
        heading: Heading {
            key: "quality",
            heading: "quality",
            unit: Unit::Score,
            meaning: "what was published of an equal configuration of an equally named model (`--quality`); beside the base, of the model that was trained as a whole",
        },
        better: HIGH,
        is_usual: false,
        is_costly: false,
        value: |row| row.quality().and_then(|of| of.value).into(),
    },
    quality_end(
        "quality_low",
        "quality, low",
        "where the 95 % interval of `quality` begins, if that's a share of right answers",
        |row| row.quality_end(0).into(),
    ),
    quality_end(
        "quality_high",
        "quality, high",
        "where the 95 % interval of `quality` ends",
        |row| row.quality_end(1).into(),
    ),
    text(
        "quality_metric",
        "metric",
        false,
        "the metric of `quality`",
        |row| row.quality().map(|of| of.metric.as_str()).into(),
    ),
    text(
        "quality_match",
        "published as",
        false,
        "what `quality` was published of. Where nothing is equal, what is near, by what it differs, and its value",
        |row| row.quality().map(|of| of.matched.as_str()).into(),
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
        is_costly: false,
        value,
    }
}

const fn quality_end(
    key: &'static str,
    heading: &'static str,
    meaning: &'static str,
    value: fn(&VariantRow) -> Value,
) -> VariantColumn {
    VariantColumn {
        heading: Heading {
            key,
            heading,
            unit: Unit::Score,
            meaning,
        },
        better: HIGH,
        is_usual: false,
        is_costly: false,
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
        is_costly: false,
        value,
    }
}
