//! What's printed at the end.

use super::job::{Job, records_of};
use super::run::Measured;
use super::{Benchmark, setup};
use crate::cli::table;
use crate::config::BenchmarkConfig;
use crate::engine::{Provider, WeightsMode};
use crate::measure::break_even::break_even;
use crate::measure::subject::Subject;
use crate::prepared::Manifest;

impl Benchmark<'_> {
    /// Everything that's printed: a table, and a line for whatever else there is to say.
    pub(super) fn text(
        &self,
        config: &BenchmarkConfig,
        jobs: &[Job],
        measured: &Measured,
        paths: &[String],
    ) -> String {
        let tokens = table::prompt_tokens(&measured.records);
        let mut text = format!("{}\n{tokens}\n", self.header(config, jobs, measured));
        let paired = !measured.base_is_cached;
        text.push_str(&table::render(&measured.records, paired, config.seed));
        if !measured.sweep.is_empty() {
            text.push_str(&table::sweep(&measured.sweep, config.seed));
        }
        for (index, job) in jobs.iter().enumerate() {
            let parity = &measured.comparisons[index].parity;
            let title = if jobs.len() > 1 { &job.label } else { "" };
            text.push_str(&table::absent(title, &job.absent));
            let records = records_of(&measured.records, job);
            let find = |subject| records.iter().find(|one| one.variant == subject);
            if let Some((unmerged, merged)) = find(Subject::Unmerged).zip(find(Subject::Merged)) {
                let found = break_even(unmerged, merged, config.seed);
                text.push_str(
                    &found.map_or(String::new(), |found| table::break_even(title, &found)),
                );
            }
            text.push_str(&table::executed(title, &measured.comparisons[index].graphs));
            if self.common.verbose {
                let found = &measured.comparisons[index].not_lowered;
                text.push_str(&table::not_lowered(title, found));
            }
            text.push_str(&table::step_graphs(title, &records));
            if let Some(swap) = &measured.swaps[index] {
                text.push_str(&table::swap(title, swap, config.seed));
            }
            text.push_str(&table::parity(title, parity.as_ref()));
        }
        let precision = measured.precision.as_ref();
        text.push_str(&precision.map_or(String::new(), table::precision));
        text.push_str(&table::doubts(
            &measured.records,
            measured.interference.as_ref(),
        ));
        text.push('\n');
        for path in paths {
            text.push_str(&format!("result  {path}\n"));
        }
        text
    }

    /// What was measured, and on what.
    fn header(&self, config: &BenchmarkConfig, jobs: &[Job], measured: &Measured) -> String {
        let place = match (self.provider, &self.hardware.accelerator_type) {
            (Provider::Cuda(_), Some(name)) => format!("{} ({name})", self.provider),
            (Provider::Cuda(_), None) => self.provider.to_string(),
            (Provider::Cpu, _) => {
                let options =
                    setup::engine_options(self.common, self.provider, 0, WeightsMode::Mapped);
                format!(
                    "cpu, {} threads, {} weights",
                    options.threads, options.weights
                )
            }
        };
        let variants = jobs.iter().flat_map(|job| &job.variants);
        let manifest = variants.map(|variant| &variant.manifest).next();
        let compute = match manifest {
            Some(m) if m.compute != m.dtype => format!(" (computed in {})", m.compute),
            _ => String::new(),
        };
        let quantization = manifest.and_then(Manifest::quantization);
        let quantized = quantization.map_or(String::new(), |q| format!(", {} weights", q.label()));
        let batch = match config.batch_sizes[0] {
            1 => String::new(),
            size => format!(", batches of {size}"),
        };
        let fresh = jobs.iter().filter(|job| job.is_fresh()).count();
        let name = match (jobs, fresh) {
            ([job], 0) => job.stem.clone(),
            ([job], _) => format!("{} (drawn fresh)", job.stem),
            (several, 0) => format!("{} experiments", several.len()),
            (several, _) => format!("{} experiments ({fresh} drawn fresh)", several.len()),
        };
        format!(
            "{name} on {}, {}{compute}{quantized}, {place}{batch}, ONNX Runtime {}",
            config.model_id, config.dtype, measured.library.version
        )
    }
}
