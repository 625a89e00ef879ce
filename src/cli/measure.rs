//! `peft-bench measure`

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;

use super::benchmark::{Benchmark, Job, Outcome};
use super::generate::open_prepared;
use super::interrupt;
use super::options::{BatchOptions, CommonOptions, TaskOptions, distinct};
use super::progress::message;
use super::setup;
use super::target::Target;
use super::tokenizer::TokenizerOptions;
use crate::config::{BenchmarkConfig, QuantizationKeys};
use crate::engine::Provider;
use crate::experiment::Experiment;
use crate::file_names;
use crate::measure::client::Interrupt;
use crate::measure::session;
use crate::model::{ModelId, TextTokenizer};
use crate::prepared::{PreparedVariant, Variant, task_of};

/// `measure`
#[derive(Debug, Args)]
pub struct Measure {
    /// Experiments, which are measured together, in turn and against one base, where their parameters are the same (one
    /// process at once for each variant of each); or prepared folders, or folders of merged Hugging Face checkpoints.
    /// Adapters and checkpoints may be hub ids (`org/name[@revision]`).
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

    #[command(flatten)]
    task: TaskOptions,

    #[command(flatten)]
    tokenizer: TokenizerOptions,

    /// Measure prompts of exactly so many tokens as well, such as `64,256,1024`, with every batch size: the result's
    /// `sweep`. They are made of the prompts' own tokens, and followed by `max_new_tokens` new ones.
    #[arg(
        long,
        value_name = "N,…",
        value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    sweep: Vec<u32>,

    /// Measure swapping as well: so many adapters in memory [default: 4] take turns in one open session, this one and
    /// others of its shape with drawn values.
    #[arg(
        long,
        value_name = "N",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "4",
        value_parser = clap::value_parser!(u16).range(2..=256)
    )]
    swap: Option<u16>,

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
    /// Runs the command. Experiments with the same parameters are measured together; whatever else there is, by itself.
    pub fn run(&self, common: &CommonOptions) -> Result<Outcome> {
        let interrupt = interrupt::install()?;
        let contexts = distinct(self.sweep.iter().map(|count| *count as usize));
        let mut failures = Vec::new();
        let fail = |failures: &mut Vec<String>, name: &str, error: anyhow::Error| {
            if self.targets.len() == 1 {
                return Err(error);
            }
            message(&format!("error: {name}: {error:#}"));
            failures.push(name.to_owned());
            Ok(())
        };
        let mut rounds: Vec<Round> = Vec::new();
        for target in &self.targets {
            match self.request(common, target) {
                Ok(request) => match rounds.iter_mut().find(|round| round.takes(&request)) {
                    Some(round) => round.requests.push(request),
                    None => rounds.push(Round {
                        requests: vec![request],
                    }),
                },
                Err(error) => fail(&mut failures, &target.display().to_string(), error)?,
            }
        }
        for round in rounds {
            let (mut config, mut jobs) = (None, Vec::new());
            let names = round.labels();
            for (request, label) in round.requests.into_iter().zip(names) {
                let name = request.name.clone();
                match self.prepare(common, request, label, &contexts, &interrupt) {
                    Ok((prepared_config, job)) => {
                        config = Some(prepared_config);
                        jobs.push(job);
                    }
                    Err(error) => fail(&mut failures, &name, error)?,
                }
            }
            let Some(config) = config else {
                continue;
            };
            let provider = setup::provider(common, config.dtype)?;
            let benchmark = self.benchmark(common, provider, &contexts, &interrupt);
            let stems: Vec<String> = jobs.iter().map(|job| job.stem.clone()).collect();
            match benchmark.measure(&config, jobs) {
                Ok(Outcome::Done) => {}
                Ok(Outcome::Interrupted) => return Ok(Outcome::Interrupted),
                Err(error) => fail(&mut failures, &stems.join(", "), error)?,
            }
        }
        if failures.is_empty() {
            return Ok(Outcome::Done);
        }
        bail!("failed: {}", failures.join(", "))
    }

    fn benchmark<'a>(
        &'a self,
        common: &'a CommonOptions,
        provider: Provider,
        contexts: &'a [usize],
        interrupt: &'a Interrupt,
    ) -> Benchmark<'a> {
        let prompts = self.prompts.as_deref();
        let mut benchmark = Benchmark::new(common, provider, prompts, &self.tokenizer, interrupt);
        benchmark.cached_base = self.cached_base;
        benchmark.swap = self.swap.map(usize::from);
        benchmark.contexts = contexts;
        benchmark.aa = self.aa;
        benchmark.empty = self.empty;
        benchmark.target = self
            .target_precision
            .map(|half_width_pct| session::PrecisionGoal {
                half_width_pct,
                max_time: self.max_time,
            });
        benchmark
    }

    /// Finds a target, and the parameters that it's measured with.
    fn request(&self, common: &CommonOptions, target: &Path) -> Result<Request> {
        let found = Target::find(common, target)?;
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
        match &found {
            Target::Experiment(_) => self.task.apply(&mut config),
            Target::Prepared(folder) => {
                let merged = |_| open_prepared(folder, Some(Variant::Merged));
                if let Ok(variant) = open_prepared(folder, None).or_else(merged) {
                    self.task.check_prepared(&variant.manifest)?;
                    config = config_with(&[variant], &config);
                }
            }
            Target::Checkpoint(_) => self.task.check_variants(&[Variant::Base])?,
        }
        self.batch.apply(&mut config);
        let experiment_folder = experiment.map(|experiment| experiment.folder.clone());
        Ok(Request {
            name: target.display().to_string(),
            stem: stem(&found, target),
            tokenizer: experiment_folder.and_then(|folder| self.tokenizer.own(&folder)),
            found,
            config,
        })
    }

    /// Prepares what was found.
    fn prepare_found(
        &self,
        common: &CommonOptions,
        provider: Provider,
        found: &Target,
        config: BenchmarkConfig,
    ) -> Result<Prepared> {
        let tokenizer = &self.tokenizer;
        match found {
            Target::Experiment(experiment) => {
                prepare_experiment(common, tokenizer, provider, experiment, config)
            }
            Target::Prepared(folder) => prepared_folder(provider, folder, config),
            Target::Checkpoint(id) => prepare_checkpoint(common, tokenizer, provider, id, config),
        }
    }

    /// Prepares a target. What fails here is recorded as well.
    fn prepare(
        &self,
        common: &CommonOptions,
        request: Request,
        label: String,
        contexts: &[usize],
        interrupt: &Interrupt,
    ) -> Result<(BenchmarkConfig, Job)> {
        let Request {
            found,
            stem,
            config,
            ..
        } = request;
        let name = result_name(&found, &stem);
        let provider = setup::provider(common, config.dtype)?;
        match self.prepare_found(common, provider, &found, config.clone()) {
            Ok(prepared) => Ok((
                prepared.config,
                Job {
                    stem,
                    target: name,
                    label,
                    variants: prepared.variants,
                    absent: prepared.absent,
                },
            )),
            Err(error) => {
                let benchmark = self.benchmark(common, provider, contexts, interrupt);
                Err(benchmark.failed(&config, [name.as_str()].into_iter(), error))
            }
        }
    }
}

/// A target that was found.
struct Request {
    /// As it was named.
    name: String,
    found: Target,
    stem: String,
    config: BenchmarkConfig,
    /// The folder of its adapter's own tokenizer, if texts go through that.
    tokenizer: Option<PathBuf>,
}

/// What is measured together, against one base.
struct Round {
    requests: Vec<Request>,
}

impl Round {
    /// Whether `request` is an experiment as those are that it has, with the same parameters and a result of its own.
    fn takes(&self, request: &Request) -> bool {
        let together = |one: &Request| {
            let experiments = matches!(
                (&one.found, &request.found),
                (Target::Experiment(_), Target::Experiment(_))
            );
            experiments
                && one.config == request.config
                && one.stem != request.stem
                && alike(one.tokenizer.as_deref(), request.tokenizer.as_deref())
        };
        self.requests.iter().all(together)
    }

    /// The experiments' own names where these differ, else with their methods.
    fn labels(&self) -> Vec<String> {
        let stems: Vec<&str> = self.requests.iter().map(|one| one.stem.as_str()).collect();
        let short = |stem: &&str| {
            stem.split_once("--")
                .map_or(*stem, |(_, name)| name)
                .to_owned()
        };
        let names: Vec<String> = stems.iter().map(short).collect();
        let distinct: BTreeSet<&String> = names.iter().collect();
        match distinct.len() == names.len() {
            true => names,
            false => stems.into_iter().map(str::to_owned).collect(),
        }
    }
}

/// Whether texts give the same with both tokenizers; `None` is the base's.
fn alike(one: Option<&Path>, other: Option<&Path>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => {
            let opened = TextTokenizer::open(one)
                .ok()
                .zip(TextTokenizer::open(other).ok());
            opened.is_some_and(|(one, other)| one.is_like(&other))
        }
        _ => false,
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

/// What a target that's called `stem` is called in the name of its result.
fn result_name(found: &Target, stem: &str) -> String {
    match found {
        Target::Experiment(experiment) => experiment.file_name(),
        Target::Prepared(folder) => file_names::of_place(stem, folder),
        Target::Checkpoint(id) => format!("checkpoint--{}", file_names::of_model(id)),
    }
}

fn prepare_experiment(
    common: &CommonOptions,
    tokenizer: &TokenizerOptions,
    provider: Provider,
    experiment: &Experiment,
    config: BenchmarkConfig,
) -> Result<Prepared> {
    let folder = Some(experiment.folder.as_path());
    let base = setup::base_to_measure(common, &config, tokenizer, folder)?;
    let preparation = setup::preparation(common, &config, provider, &base)?;
    let (variants, refusal) = preparation.prepare_all(experiment)?;
    setup::note_task(&config, task_of(&variants));
    setup::note_adapter_of(&variants);
    setup::note_replaced(&variants);
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
    setup::check_prepared(folder, &first.manifest, provider)?;
    config = config_with(&variants, &config);
    Ok(Prepared {
        config,
        variants,
        absent: BTreeMap::new(),
    })
}

/// The parameters that `variants` of a prepared folder, of which there's one at least, were prepared with.
fn config_with(variants: &[PreparedVariant], config: &BenchmarkConfig) -> BenchmarkConfig {
    let manifest = &variants[0].manifest;
    BenchmarkConfig {
        model_id: manifest.model_id.clone(),
        dtype: manifest.dtype,
        task_id: task_of(variants).map(|task| task.id),
        quantization_keys: QuantizationKeys::of(manifest.quantization()),
        ..config.clone()
    }
}

/// A merged checkpoint against `--model`, or by itself without that.
fn prepare_checkpoint(
    common: &CommonOptions,
    tokenizer: &TokenizerOptions,
    provider: Provider,
    id: &ModelId,
    config: BenchmarkConfig,
) -> Result<Prepared> {
    let last = match common.model {
        Some(_) => Variant::Merged,
        None => Variant::Base,
    };
    let mut variants = Vec::new();
    let mut folders = Vec::new();
    let mut open = |model_id: String, variant: Variant| -> Result<()> {
        let config = BenchmarkConfig {
            model_id,
            ..config.clone()
        };
        let base = setup::base_model(common, &config)?;
        folders.push(base.folder.clone());
        if variant == last {
            // A merged checkpoint may have its adapter's tokenizer.
            let merged = folders.get(1).map(PathBuf::as_path);
            tokenizer.place(&folders[0], merged)?.open()?;
        }
        let preparation = setup::preparation(common, &config, provider, &base)?;
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
        message(&format!(
            "note: `{id}` has a vocabulary of {}, the base model one of {}: they're compared by the tokens that both have",
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
