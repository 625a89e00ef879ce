//! Measuring prepared variants, with progress, a table, and a result file. Commands share it.

use std::collections::BTreeMap;
use std::io::{Write, stdout};
use std::path::Path;
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result, anyhow};

use super::measure_progress::MeasureProgress;
use super::options::CommonOptions;
use super::progress::message;
use super::setup;
use super::table;
use crate::config::BenchmarkConfig;
use crate::engine::{EngineError, Provider};
use crate::measure::client::{Interrupt, WorkerError};
use crate::measure::energy::{EnergyMethod, SystemMeter};
use crate::measure::interference::{Interference, InterferenceWatch};
use crate::measure::record::{PromptPlan, VariantRecord};
use crate::measure::session::{MeasurePlan, Measurement, Precision, Step, Target};
use crate::measure::subject::Subject;
use crate::model::TextTokenizer;
use crate::prepare::{Manifest, PreparedVariant, Variant, empty_variant};
use crate::prompts::{Category, Prompts};
use crate::results::{self, BaseCache, CacheKey, ResultDocument, RunInfo, Status};
use crate::runtime::library::Library;
use crate::system::{Hardware, SystemInfo};
use crate::verify::Parity;

/// How a command ended, if not by an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// What was asked for was done.
    Done,
    /// Ctrl-C.
    Interrupted,
}

/// The prompts' file, in the working folder.
const PROMPTS: &str = "prompts/prompts.json";

/// One measurement and its result file.
pub struct Benchmark<'a> {
    common: &'a CommonOptions,
    provider: Provider,
    stem: &'a str,
    prompts: Option<&'a Path>,
    interrupt: &'a Interrupt,
    hardware: Hardware,
    system: SystemInfo,
    started: Instant,
    timestamp: String,
    /// Variants that don't exist, with the reason.
    pub absent: BTreeMap<Variant, String>,
    /// Go on until overheads are known so well.
    pub target: Option<Target>,
    /// Measure the unmerged graph with an adapter of zeros as well.
    pub empty: bool,
    /// Measure the base against itself as well.
    pub aa: bool,
    /// Take the base from the cache.
    pub cached_base: bool,
    /// The base is all there is: an earlier measurement of it will do, unless it's to be made anew.
    pub base_only: bool,
}

/// What was measured.
struct Measured {
    records: Vec<VariantRecord>,
    parity: Option<Parity>,
    precision: Option<Precision>,
    interference: Option<Interference>,
    energy_method: Option<EnergyMethod>,
    status: Status,
    error: Option<String>,
    base_is_cached: bool,
    library: Library,
    manifests: BTreeMap<Variant, Manifest>,
}

impl<'a> Benchmark<'a> {
    /// A measurement whose result is `stem`.
    pub fn new(
        common: &'a CommonOptions,
        provider: Provider,
        stem: &'a str,
        prompts: Option<&'a Path>,
        interrupt: &'a Interrupt,
    ) -> Self {
        Self {
            common,
            provider,
            stem,
            prompts,
            interrupt,
            hardware: Hardware::collect(common.device),
            system: SystemInfo::collect(),
            started: Instant::now(),
            timestamp: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            absent: BTreeMap::new(),
            target: None,
            empty: false,
            aa: false,
            cached_base: false,
            base_only: false,
        }
    }

    /// Measures `variants`, writes the result, prints the table.
    pub fn measure(
        &self,
        config: &BenchmarkConfig,
        variants: Vec<PreparedVariant>,
    ) -> Result<Outcome> {
        let measured = match self.run(config, variants) {
            Ok(measured) => measured,
            Err(error) => return Err(self.failed(config, error)),
        };
        let path = self.write(config, &measured)?;
        if measured.status == Status::Cancelled {
            message(&format!(
                "interrupted; what was measured is in {}",
                path.display()
            ));
            return Ok(Outcome::Interrupted);
        }
        let shown = table::render(
            &measured.records,
            &self.absent,
            !measured.base_is_cached,
            config.seed,
        );
        let header = self.header(config, &measured);
        let parity = measured
            .parity
            .as_ref()
            .map_or(String::new(), table::parity);
        let precision = measured.precision.as_ref();
        let precision = precision.map_or(String::new(), table::precision);
        let doubts = table::doubts(&measured.records, measured.interference.as_ref());
        let text = format!(
            "{header}\n\n{shown}{parity}{precision}{doubts}\nresult  {}\n",
            path.display()
        );
        stdout()
            .write_all(text.as_bytes())
            .context("cannot write to stdout")?;
        match measured.error {
            None => Ok(Outcome::Done),
            Some(error) => Err(anyhow!("{error} (see {})", path.display())),
        }
    }

    /// Records an error that came before anything was measured.
    pub fn failed(&self, config: &BenchmarkConfig, error: anyhow::Error) -> anyhow::Error {
        let options = setup::engine_options(self.common, self.provider, 0);
        let info = self.info(config, &options, Status::Failed, Some(format!("{error:#}")));
        let document = ResultDocument::new(&info, &[]);
        match results::write(&self.common.output, self.stem, Status::Failed, &document) {
            Ok(_) => error,
            Err(second) => error.context(format!("{second}")),
        }
    }

    fn run(&self, config: &BenchmarkConfig, variants: Vec<PreparedVariant>) -> Result<Measured> {
        let prompts = self.plan_prompts(config, &variants)?;
        let library = setup::library(self.common, self.provider)?;
        let options = setup::engine_options(self.common, self.provider, 0);
        let mut plan = MeasurePlan {
            program: std::env::current_exe().context("cannot find this program's own file")?,
            library: library.clone(),
            variants: variants
                .into_iter()
                .map(|prepared| (Subject::from(prepared.manifest.variant), prepared))
                .collect(),
            prompts,
            runs: config.num_inference_runs,
            options,
            seed: config.seed,
            target: self.target,
        };
        if self.empty {
            let mut all = plan.variants.iter();
            let unmerged = all.find(|(subject, _)| *subject == Subject::Unmerged);
            let empty = unmerged
                .map(|(_, unmerged)| empty_variant(unmerged))
                .transpose()?;
            match empty.flatten() {
                Some(empty) => plan.variants.push((Subject::UnmergedEmpty, empty)),
                None => message("note: there is no `unmerged-empty` of this adapter"),
            }
        }
        if self.aa
            && let Some((_, base)) = plan.variants.iter().find(|(s, _)| *s == Subject::Base)
        {
            let again = (Subject::BaseAgain, base.clone());
            plan.variants.push(again);
        }
        let manifests = plan.variants.iter();
        let manifests = manifests
            .map(|(_, p)| (p.manifest.variant, p.manifest.clone()))
            .collect();

        let parity = {
            let progress = MeasureProgress::default();
            progress.report(Step::Comparing);
            plan.parity(self.interrupt)
        };
        let cache = BaseCache::new(&self.common.output);
        let key = self.base_key(&plan);
        let mut cached = None;
        if self.cached_base {
            cached = key.as_ref().and_then(|key| cache.get(key));
            match &cached {
                Some(_) => plan
                    .variants
                    .retain(|(variant, _)| *variant != Subject::Base),
                None => {
                    message("note: no earlier measurement of this base fits; it is measured now")
                }
            }
        }
        if self.base_only && cached.is_some() {
            message("note: this base was measured before, with everything the same");
        }

        let watch = InterferenceWatch::start();
        let meter = SystemMeter::new(self.provider);
        let progress = MeasureProgress::default();
        let (parity, measurement) = match parity {
            Err(interrupted) => (None, nothing(Err(interrupted))),
            Ok(parity) if plan.variants.is_empty() => (parity, nothing(Ok(()))),
            Ok(parity) => {
                let measured = plan.run(self.interrupt, &meter, &|step| progress.report(step));
                (parity, measured)
            }
        };
        let Measurement {
            records,
            precision,
            outcome,
        } = measurement;
        drop(progress);
        let base_is_cached = cached.is_some();
        let records: Vec<VariantRecord> = cached.into_iter().chain(records).collect();
        let (status, error) = judge(&records, parity.as_ref(), outcome);
        if let (Some(key), Status::Success, false) =
            (&key, status, base_is_cached || self.target.is_some())
            && let Some(base) = records.iter().find(|r| r.variant == Subject::Base)
        {
            cache
                .put(key, base)
                .context("cannot write the base's measurement")?;
        }
        Ok(Measured {
            records,
            parity,
            precision,
            interference: watch.and_then(|watch| watch.finish()),
            energy_method: meter.method(),
            status,
            error,
            base_is_cached,
            library,
            manifests,
        })
    }

    fn base_key(&self, plan: &MeasurePlan) -> Option<CacheKey> {
        let (_, base) = plan
            .variants
            .iter()
            .find(|(variant, _)| *variant == Subject::Base)?;
        Some(CacheKey::new(
            &base.manifest,
            &plan.prompts,
            plan.runs,
            &plan.options,
            &plan.library,
            &self.hardware,
            &self.system,
        ))
    }

    /// Tokenizes the prompts, and checks that every variant has room for them.
    fn plan_prompts(
        &self,
        config: &BenchmarkConfig,
        variants: &[PreparedVariant],
    ) -> Result<Vec<PromptPlan>> {
        let here = Path::new(PROMPTS);
        let file = self.prompts.or_else(|| here.is_file().then_some(here));
        let prompts = Prompts::load(file)?;
        let first = variants.first().context("there is nothing to measure")?;
        let tokenizer = TextTokenizer::open(&first.manifest.model_folder)?;
        let mut plans = Vec::new();
        for category in Category::ALL {
            let texts = prompts.select(category, config.num_prompt_samples)?;
            for (index, text) in texts.iter().enumerate() {
                plans.push(PromptPlan {
                    category,
                    index,
                    prompt_ids: tokenizer.encode(text)?,
                    new_tokens: config.max_new_tokens_for(category),
                });
            }
        }
        for variant in variants {
            let manifest = &variant.manifest;
            for plan in &plans {
                let needed =
                    manifest.num_virtual_tokens() + plan.prompt_ids.len() + plan.new_tokens;
                if needed > manifest.max_position_embeddings {
                    let error = EngineError::Positions {
                        needed,
                        max_position_embeddings: manifest.max_position_embeddings,
                    };
                    let (category, number) = (plan.category, plan.index + 1);
                    return Err(anyhow!(error).context(format!(
                        "prompt {number} of category `{category}` is too long for this model"
                    )));
                }
            }
        }
        Ok(plans)
    }

    fn write(&self, config: &BenchmarkConfig, measured: &Measured) -> Result<std::path::PathBuf> {
        let options = setup::engine_options(self.common, self.provider, 0);
        let mut info = self.info(config, &options, measured.status, measured.error.clone());
        info.library = Some(&measured.library);
        info.base_is_cached = measured.base_is_cached;
        info.manifests = measured.manifests.clone();
        info.precision = measured.precision;
        info.interference = measured.interference;
        info.energy_method = measured.energy_method;
        info.parity = measured.parity.as_ref();
        let document = ResultDocument::new(&info, &measured.records);
        Ok(results::write(
            &self.common.output,
            self.stem,
            measured.status,
            &document,
        )?)
    }

    fn info<'b>(
        &'b self,
        config: &BenchmarkConfig,
        options: &'b crate::engine::EngineOptions,
        status: Status,
        error: Option<String>,
    ) -> RunInfo<'b> {
        RunInfo {
            timestamp: self.timestamp.clone(),
            duration: self.started.elapsed().as_secs_f64(),
            status,
            error,
            benchmark_config: config.to_json(),
            hardware: &self.hardware,
            system: &self.system,
            library: None,
            options,
            manifests: BTreeMap::new(),
            parity: None,
            absent: self.absent.clone(),
            base_is_cached: false,
            precision: None,
            interference: None,
            energy_method: None,
            seed: config.seed,
        }
    }

    fn header(&self, config: &BenchmarkConfig, measured: &Measured) -> String {
        let place = match (self.provider, &self.hardware.accelerator_type) {
            (Provider::Cuda(_), Some(name)) => format!("{} ({name})", self.provider),
            (Provider::Cuda(_), None) => self.provider.to_string(),
            (Provider::Cpu, _) => {
                let options = setup::engine_options(self.common, self.provider, 0);
                format!(
                    "cpu, {} threads, {} weights",
                    options.threads, options.weights
                )
            }
        };
        let manifest = measured.manifests.values().next();
        let compute = match manifest {
            Some(m) if m.compute != m.dtype => format!(" (computed in {})", m.compute),
            _ => String::new(),
        };
        format!(
            "{} on {}, {}{compute}, {place}, ONNX Runtime {}",
            self.stem, config.model_id, config.dtype, measured.library.version
        )
    }
}

fn nothing(outcome: Result<(), WorkerError>) -> Measurement {
    Measurement {
        records: Vec::new(),
        precision: None,
        outcome,
    }
}

/// How the measurement ended, and why not well.
fn judge(
    records: &[VariantRecord],
    parity: Option<&Parity>,
    outcome: Result<(), WorkerError>,
) -> (Status, Option<String>) {
    let wrong = parity.filter(|parity| !parity.passed);
    let wrong = wrong.map(|parity| format!("parity check failed: {}", parity.failures.join("; ")));
    match outcome {
        Err(WorkerError::Interrupted) => (Status::Cancelled, Some("interrupted".to_owned())),
        Err(error) => (Status::Failed, Some(error.to_string())),
        Ok(()) => match records
            .iter()
            .find_map(|record| record.error.clone())
            .or(wrong)
        {
            Some(error) => (Status::Failed, Some(error)),
            None => (Status::Success, None),
        },
    }
}
