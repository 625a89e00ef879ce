//! `peft-bench measure`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::Args;

use super::benchmark::{Benchmark, Job, Outcome};
use super::generate::open_prepared;
use super::interrupt;
use super::options::{BatchOptions, CommonOptions, distinct};
use super::progress::message;
use super::setup;
use super::target::Target;
use crate::config::BenchmarkConfig;
use crate::engine::Provider;
use crate::experiment::Experiment;
use crate::measure::client::Interrupt;
use crate::measure::session;
use crate::model::ModelId;
use crate::prepare::{PreparedVariant, Variant};

/// `measure`
#[derive(Debug, Args)]
pub struct Measure {
    /// Experiments; or prepared folders, or folders of merged Hugging Face checkpoints.
    #[arg(required = true)]
    targets: Vec<PathBuf>,

    /// Prompts in place of `prompts/prompts.json`.
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,

    /// Take the base's figures from an earlier `peft-bench base` of exactly this configuration. It saves
    /// time; overheads are then not paired, and so less certain.
    #[arg(long)]
    cached_base: bool,

    /// Go on until every overall overhead is known to within so many percentage points (half of its 95 %
    /// interval); `num_inference_runs` is then the least.
    #[arg(long, value_name = "PCT", value_parser = percentage, conflicts_with = "cached_base")]
    target_precision: Option<f64>,

    /// Begin no further round for `--target-precision` after so much time, such as `90s` or `10m`.
    #[arg(
        long,
        value_name = "TIME",
        value_parser = humantime::parse_duration,
        default_value = "5m",
        requires = "target_precision"
    )]
    max_time: Duration,

    #[command(flatten)]
    batch: BatchOptions,

    /// Measure prompts of exactly so many tokens as well, such as `64,256,1024`, with every batch size: the result's
    /// `sweep`. They are made of the prompts' own tokens, and followed by `max_new_tokens` new ones.
    #[arg(
        long,
        value_name = "N,…",
        value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    sweep: Vec<u32>,

    /// Measure the base against itself as well: the smallest overhead that this machine can tell from none.
    #[arg(long, conflicts_with = "cached_base")]
    aa: bool,

    /// Measure the unmerged graph with an adapter of zeros as well: what the graph's shape alone costs.
    #[arg(long)]
    empty: bool,
}

/// `2%` or `2`.
fn percentage(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%').trim_end();
    match number.parse() {
        Ok(value) if f64::is_finite(value) && value > 0.0 => Ok(value),
        _ => Err("expected a percentage above zero, such as `2%`".to_owned()),
    }
}

/// What a target comes to: variants and parameters.
struct Prepared {
    config: BenchmarkConfig,
    variants: Vec<PreparedVariant>,
    /// Variants that don't exist, with the reason.
    absent: BTreeMap<Variant, String>,
}

impl Measure {
    /// Runs the command: each target is measured, and written, by itself.
    pub fn run(&self, common: &CommonOptions) -> Result<Outcome> {
        let interrupt = interrupt::install()?;
        let mut failures = Vec::new();
        for target in &self.targets {
            match self.target(common, target, &interrupt) {
                Ok(Outcome::Done) => {}
                Ok(Outcome::Interrupted) => return Ok(Outcome::Interrupted),
                Err(error) if self.targets.len() == 1 => return Err(error),
                Err(error) => {
                    message(&format!("error: {}: {error:#}", target.display()));
                    failures.push(target.display().to_string());
                }
            }
        }
        if failures.is_empty() {
            return Ok(Outcome::Done);
        }
        bail!(
            "{} of {} failed: {}",
            failures.len(),
            self.targets.len(),
            failures.join(", ")
        )
    }

    fn target(
        &self,
        common: &CommonOptions,
        target: &Path,
        interrupt: &Interrupt,
    ) -> Result<Outcome> {
        let found = Target::find(target)?;
        let experiment = match &found {
            Target::Experiment(experiment) => Some(experiment),
            Target::Prepared(_) | Target::Checkpoint(_) => None,
        };
        let mut config = setup::config(common, experiment)?;
        if let Target::Checkpoint(id) = &found
            && common.model.is_none()
        {
            config.model_id = id.to_string();
        }
        if let Target::Prepared(folder) = &found
            && let Ok(variant) = open_prepared(folder, None)
        {
            config = config_with(&variant, &config);
        }
        self.batch.apply(&mut config);
        let provider = setup::provider(common, config.dtype)?;
        let stem = stem(&found, target);
        let mut benchmark = Benchmark::new(common, provider, self.prompts.as_deref(), interrupt);
        benchmark.cached_base = self.cached_base;
        let contexts = distinct(self.sweep.iter().map(|count| *count as usize));
        benchmark.contexts = &contexts;
        benchmark.aa = self.aa;
        benchmark.empty = self.empty;
        benchmark.target = self.target_precision.map(|half_width_pct| session::Target {
            half_width_pct,
            max_time: self.max_time,
        });
        // What fails before anything is measured is recorded as well.
        let prepared = match prepare(common, provider, &found, config.clone()) {
            Ok(prepared) => prepared,
            Err(error) => {
                return Err(benchmark.failed(&config, [stem.as_str()].into_iter(), error));
            }
        };
        let job = Job {
            stem,
            variants: prepared.variants,
            absent: prepared.absent,
        };
        benchmark.measure(&prepared.config, vec![job])
    }
}

fn stem(found: &Target, target: &Path) -> String {
    let name = |path: &Path| {
        let full = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let name = full
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        name.unwrap_or_else(|| "model".to_owned())
    };
    match found {
        Target::Experiment(experiment) => experiment.file_stem(),
        Target::Prepared(folder) => {
            let manifest = open_prepared(folder, None)
                .ok()
                .map(|variant| variant.manifest);
            let adapter = manifest.and_then(|manifest| manifest.adapter);
            adapter.map_or_else(|| format!("prepared--{}", name(target)), |a| a.experiment)
        }
        Target::Checkpoint(_) => format!("checkpoint--{}", name(target)),
    }
}

fn prepare(
    common: &CommonOptions,
    provider: Provider,
    found: &Target,
    config: BenchmarkConfig,
) -> Result<Prepared> {
    match found {
        Target::Experiment(experiment) => prepare_experiment(common, provider, experiment, config),
        Target::Prepared(folder) => prepared_folder(provider, folder, config),
        Target::Checkpoint(id) => prepare_checkpoint(common, provider, id, config),
    }
}

fn prepare_experiment(
    common: &CommonOptions,
    provider: Provider,
    experiment: &Experiment,
    config: BenchmarkConfig,
) -> Result<Prepared> {
    let base = setup::base_model(common, &config)?;
    let preparation = setup::preparation(common, &config, provider, &base);
    let (variants, refusal) = preparation.prepare_all(experiment)?;
    let absent = refusal.map(|reason| (Variant::Merged, reason));
    Ok(Prepared {
        config,
        variants,
        absent: absent.into_iter().collect(),
    })
}

/// The variants that are in a prepared folder, with the base beside it.
fn prepared_folder(
    provider: Provider,
    folder: &Path,
    mut config: BenchmarkConfig,
) -> Result<Prepared> {
    let all = [Variant::Base, Variant::Merged, Variant::Unmerged];
    let single = open_prepared(folder, None)
        .ok()
        .map(|variant| variant.manifest.variant);
    let holder = match single {
        Some(variant) if folder.ends_with(variant.name()) => folder.parent().unwrap_or(folder),
        _ => folder,
    };
    let variants: Vec<PreparedVariant> = all
        .into_iter()
        .filter_map(|variant| open_prepared(holder, Some(variant)).ok())
        .collect();
    let Some(first) = variants.first() else {
        bail!("`{}` holds no variant", folder.display());
    };
    let expected = setup::precision(first.manifest.dtype, provider);
    if first.manifest.compute != expected.compute {
        bail!(
            "`{}` was prepared to compute in {} and {provider} takes {}; prepare it again with this \
             `--ep`",
            folder.display(),
            first.manifest.compute,
            expected.compute
        );
    }
    config = config_with(first, &config);
    Ok(Prepared {
        config,
        variants,
        absent: BTreeMap::new(),
    })
}

fn config_with(variant: &PreparedVariant, config: &BenchmarkConfig) -> BenchmarkConfig {
    BenchmarkConfig {
        model_id: variant.manifest.model_id.clone(),
        dtype: variant.manifest.dtype,
        ..config.clone()
    }
}

/// A merged checkpoint against `--model`, or by itself without that.
fn prepare_checkpoint(
    common: &CommonOptions,
    provider: Provider,
    id: &ModelId,
    config: BenchmarkConfig,
) -> Result<Prepared> {
    let mut variants = Vec::new();
    let mut open = |model_id: String, variant: Variant| -> Result<()> {
        let config = BenchmarkConfig {
            model_id,
            ..config.clone()
        };
        let base = setup::base_model(common, &config)?;
        let preparation = setup::preparation(common, &config, provider, &base);
        let mut prepared = preparation.prepare(None, &[Variant::Base])?.remove(0);
        prepared.manifest.variant = variant;
        variants.push(prepared);
        Ok(())
    };
    if common.model.is_some() {
        open(config.model_id.clone(), Variant::Base)?;
        open(id.to_string(), Variant::Merged)?;
    } else {
        open(id.to_string(), Variant::Base)?;
    }
    let tokens = |variant: &PreparedVariant| variant.manifest.vocab_size;
    if variants.len() == 2 && tokens(&variants[0]) != tokens(&variants[1]) {
        return Err(anyhow!(
            "`{id}` has a vocabulary of {}, the base model one of {}: they can't be compared",
            tokens(&variants[1]),
            tokens(&variants[0])
        ));
    }
    Ok(Prepared {
        config,
        variants,
        absent: BTreeMap::new(),
    })
}
