//! What a column asks of a row.

use super::paired::{Part, overhead};
use super::{VariantRow, written};
use crate::measure::break_even::Verdict;
use crate::measure::stats::quantile;
use crate::measure::subject::Subject;
use crate::report::caveats::{Level, caveats};
use crate::report::comparable::condition_named;
use crate::report::model::{Metrics, Overhead, Run, Variant};
use crate::report::quality::Quality;
use crate::report::table::Value;

impl VariantRow<'_> {
    pub(super) fn found(&self) -> Option<&Variant> {
        self.variant.map(|(_, found)| found)
    }

    pub(super) fn metrics(&self) -> Option<&Metrics> {
        self.found()?.overall.as_ref()
    }

    /// The name without the method, which has a column of its own.
    pub(in crate::report) fn short_name(&self) -> &str {
        let name = self.source.name;
        name.split_once("--").map_or(name, |(_, name)| name)
    }

    pub(super) fn method(&self) -> Option<&str> {
        self.source.report.run_info.peft_config.as_ref()?["peft_type"].as_str()
    }

    /// Every run.
    fn runs(&self) -> impl Iterator<Item = &Run> {
        let samples = self.found().into_iter().flat_map(Variant::samples);
        samples.flat_map(|sample| &sample.individual_runs)
    }

    /// A quantile of all decode steps.
    pub(super) fn steps(&self, share: f64) -> Value {
        let steps = self.runs().flat_map(|run| run.decode_steps.iter().copied());
        quantile(&steps.collect::<Vec<f64>>(), share).into()
    }

    /// A quantile of the times to the first token.
    pub(super) fn first_tokens(&self, share: f64) -> Value {
        let times = self.runs().map(|run| run.time_to_first_token);
        quantile(&times.collect::<Vec<f64>>(), share).into()
    }

    /// The overhead over the base in a part of generations; of the base itself there's none.
    pub(super) fn overhead_of(&self, part: Part) -> Value {
        let own = self.found().filter(|found| found.overhead_pct.is_some());
        let found = own.and_then(|found| overhead(self.source.report, found, part));
        self.estimate(found.as_ref())
    }

    /// An overhead as one of many. Those of controls aren't counted: they're of no adapter.
    pub(super) fn estimate(&self, over: Option<&Overhead>) -> Value {
        let controls = [Subject::BaseAgain, Subject::UnmergedEmpty];
        match self.variant {
            Some((name, found)) if controls.iter().all(|of| of.name() != name) => {
                Value::one_of_many(over, found.by_category.values().count())
            }
            _ => over.into(),
        }
    }

    /// How often the processes were started; `None` of files from before that was told.
    pub(super) fn starts(&self) -> Option<usize> {
        let last = self.runs().map(|run| run.start).max()?;
        last.map(|last| last + 1)
    }

    /// By the median decode step.
    pub(super) fn tokens_per_second(&self) -> Option<f64> {
        Some(1.0 / self.metrics()?.seconds_per_batch_token()?)
    }

    pub(super) fn batch_size(&self) -> usize {
        self.source.report.run_info.session.batch_size.unwrap_or(1)
    }

    /// What the result must have in common with others to be compared with them.
    pub(super) fn condition(&self, what: &str) -> Value {
        condition_named(self.source.report, what).as_deref().into()
    }

    pub(super) fn adapter_weights(&self) -> Option<String> {
        let adapter = self.source.report.meta_info.adapter.value()?;
        Some(written(&adapter.weights()))
    }

    /// Why the variant ended early; otherwise why the run did.
    pub(super) fn error(&self) -> Option<&str> {
        let own = self.found().and_then(|found| found.error.as_deref());
        own.or(self.source.report.run_info.error.as_deref())
    }

    /// Caveats about the variant, without those that don't concern its figures.
    pub(super) fn warnings(&self) -> Option<String> {
        let variant = self.variant.map(|(name, _)| name);
        let all = caveats(self.source.report).into_iter().filter(|caveat| {
            let of_another = caveat.variant.is_some() && caveat.variant.as_deref() != variant;
            caveat.level != Level::Note && !of_another
        });
        let shorts: Vec<&str> = all.map(|caveat| caveat.short).collect();
        (!shorts.is_empty()).then(|| shorts.join(", "))
    }

    pub(super) fn peak_mb(&self) -> Option<f64> {
        let memory = &self.found()?.memory;
        let accelerator = memory.peak_accelerator_memory_mb;
        let peak = accelerator.unwrap_or(memory.peak_ram_memory_mb);
        // Without a stage, memory was never read.
        (!memory.memory_logs.is_empty()).then_some(peak)
    }

    pub(super) fn nodes_per_step(&self) -> Option<usize> {
        let executed = self.found()?.executed.value()?;
        Some(executed.get("step")?.nodes.values().sum())
    }

    /// The most over all groups of prompts, if merging pays with each.
    pub(super) fn break_even_tokens(&self) -> Option<f64> {
        let (name, _) = self.variant?;
        let found = self.source.report.generation_info.break_even.value();
        let found = found.filter(|_| name == "merged")?;
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

    pub(super) fn parity(&self) -> Option<String> {
        let parity = self.source.report.generation_info.parity.value()?;
        match (parity.passed, parity.merged_vs_unmerged) {
            (false, _) => Some("failed".to_owned()),
            (true, Some(difference)) => Some(format!("ok, {difference:.0e}")),
            (true, None) => Some("ok".to_owned()),
        }
    }

    /// What's published of what the variant computes.
    pub(super) fn quality(&self) -> Option<&Quality> {
        let (name, _) = self.variant?;
        let is = |subject: Subject| subject.name() == name;
        if is(Subject::Base) {
            return self.source.quality.base.as_ref();
        }
        let is_adapter = is(Subject::Merged) || is(Subject::Unmerged);
        self.source.quality.adapter.as_ref().filter(|_| is_adapter)
    }

    /// An end of the quality's interval.
    pub(super) fn quality_end(&self, end: usize) -> Option<f64> {
        Some(self.quality()?.interval?[end])
    }

    pub(super) fn parity_difference(&self) -> Option<f64> {
        let parity = self.source.report.generation_info.parity.value()?;
        parity.merged_vs_unmerged
    }
}
