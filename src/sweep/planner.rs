//! From a specification to a plan: checks every combination without loading a weight, and computes
//! its key and what it's expected to take.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use serde_json::Value;
use thiserror::Error;

use super::digest::Digests;
use super::estimate::BaseSize;
use super::inputs;
use super::job::{Job, Refusal};
use super::spec::{Combination, Spec, SpecError};
use crate::config::BenchmarkConfig;
use crate::engine::EngineError;
use crate::experiment::Experiment;
use crate::experiment::check::{fit, look_at};
use crate::graph::AttentionOperator;
use crate::lowering::{WeightsMode, layers_on_cpu};
use crate::model::{BaseModel, ModelId};
use crate::prepared::Precision;
use crate::quantize::{Format, FormatChoice};
use crate::study::{GpuLayers, ProviderChoice, Setup, Study};
use crate::weights::Dtype;

/// A plan that can't be made at all.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum PlannerError {
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error("`{found}` of `{key}` is none of {known}")]
    Value {
        key: &'static str,
        found: String,
        known: String,
    },
    #[error("cannot find this program's revision")]
    Program(#[source] io::Error),
}

/// What jobs run on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Node {
    /// Its RAM, in bytes; `None` if it isn't known.
    pub ram_bytes: Option<u64>,
    /// The memory of one of its GPUs, in bytes; `None` if it has none.
    pub gpu_bytes: Option<u64>,
}

/// What was found of an experiment.
struct Found {
    experiment: Experiment,
    digest: String,
}

/// What was found of a base model.
struct Base {
    /// `None` if it isn't here yet.
    model: Option<BaseModel>,
    digest: String,
    size: BaseSize,
}

/// Makes plans, and keeps what it found out from combination to combination.
pub(super) struct Planner<'a> {
    study: &'a Study,
    node: Node,
    program: Value,
    prompts: Option<String>,
    digests: Digests,
    /// The parameters of the last combination, which the next one has but for the batch size.
    last: Option<(Combination, BenchmarkConfig)>,
    experiments: HashMap<String, Result<Found, String>>,
    bases: HashMap<String, Result<Base, String>>,
    /// Whether an experiment fits a base, by their names and the task.
    fits: HashMap<(String, String, Option<usize>), Result<Fits, String>>,
}

/// What was found of an experiment on a base.
#[derive(Debug, Clone, Default)]
struct Fits {
    /// Why it can't be merged, if it can't.
    merge_refusal: Option<String>,
    /// Whether it fills the cache before the prompt.
    has_prefix: bool,
}

/// The jobs of `spec`, each measured as `study` says, and what can't be measured; and the revision
/// of the program that their keys are for.
///
/// # Errors
/// If the specification is wrong. A combination that can't be measured is no error.
pub fn jobs(
    spec: &Spec,
    study: &Study,
    node: Node,
) -> Result<(Vec<Job>, Vec<Refusal>, Value), PlannerError> {
    check_values(spec)?;
    let program = inputs::program(study.settings.provider).map_err(PlannerError::Program)?;
    let mut planner = Planner::new(study, node, program);
    let (mut jobs, mut refusals) = (Vec::<Job>::new(), Vec::new());
    let mut keys: HashMap<_, String> = HashMap::new();
    for combination in spec.combinations()? {
        match planner.job(&combination, jobs.len()) {
            Ok(job) => match keys.get(&job.key) {
                Some(same) => refusals.push(Refusal {
                    refused: format!("it's the same measurement as {same}"),
                    combination,
                }),
                None => {
                    keys.insert(job.key.clone(), combination.to_string());
                    jobs.push(job);
                }
            },
            Err(refused) => refusals.push(Refusal {
                combination,
                refused,
            }),
        }
    }
    planner.digests.keep();
    Ok((jobs, refusals, planner.program))
}

/// Refuses names of dtypes and formats that there aren't.
fn check_values(spec: &Spec) -> Result<(), PlannerError> {
    for name in &spec.dtypes {
        if name.parse::<Dtype>().is_err() {
            return Err(PlannerError::Value {
                key: "dtypes",
                found: name.clone(),
                known: "float32, float16 and bfloat16".to_owned(),
            });
        }
    }
    for name in &spec.quantizations {
        if name != "none" && Format::named(name).is_none() {
            let known = Format::ALL.iter().map(|format| format.name());
            return Err(PlannerError::Value {
                key: "quantizations",
                found: name.clone(),
                known: format!("{} and none", known.collect::<Vec<_>>().join(", ")),
            });
        }
    }
    Ok(())
}

impl<'a> Planner<'a> {
    /// Plans jobs that are measured as `study` says, by this revision of the program.
    pub fn new(study: &'a Study, node: Node, program: Value) -> Self {
        Self {
            study,
            node,
            program,
            prompts: inputs::of_prompts(study),
            digests: Digests::open(),
            last: None,
            experiments: HashMap::new(),
            bases: HashMap::new(),
            fits: HashMap::new(),
        }
    }

    /// The job of `combination` under `number`; or why it can't be measured.
    ///
    /// # Errors
    /// That.
    pub fn job(&mut self, combination: &Combination, number: usize) -> Result<Job, String> {
        let name = &combination.experiment;
        self.look_at_experiment(name);
        let found = self.experiments[name].as_ref().map_err(String::clone)?;
        let mut settings = self.study.settings.clone();
        if let Some(model) = &combination.model {
            settings.model = Some(model.clone());
        }
        if let Some(dtype) = &combination.dtype {
            settings.dtype = dtype.parse().ok();
        }
        if let Some(format) = &combination.quantization {
            settings.quantize = Some(FormatChoice::from(Format::named(format)));
        }
        let of_all_batches = Combination {
            batch_size: None,
            ..combination.clone()
        };
        let last = self.last.take().filter(|(of, _)| *of == of_all_batches);
        let config = match last {
            Some((_, config)) => config,
            None => {
                let mut unwatched = ();
                let setup = Setup::new(&settings, &mut unwatched);
                let config = setup.parameters(Some(&found.experiment));
                config.map_err(|error| in_full(&error))?
            }
        };
        self.last = Some((of_all_batches, config.clone()));
        let mut config = config;
        config.task_id = self.study.task_id.or(config.task_id);
        if let Some(size) = combination.batch_size {
            config.batch_sizes = vec![size];
        } else if !self.study.batch_sizes.is_empty() {
            config.batch_sizes.clone_from(&self.study.batch_sizes);
        }
        self.look_at_base(&config.model_id);
        let mut notes = Vec::new();
        let on_gpu = is_on_gpu(settings.provider, config.dtype, self.node);
        let fits = self.fit(name, &config)?;
        check_batches(&fits, &config, on_gpu)?;
        let why = fits.merge_refusal;
        notes.extend(why.map(|why| format!("no merged variant: {why}")));
        let base = self.bases[&config.model_id]
            .as_ref()
            .map_err(String::clone)?;
        if base.model.is_none() {
            if settings.offline {
                return Err(format!(
                    "the base `{}` isn't here, and `--offline` fetches nothing",
                    config.model_id
                ));
            }
            notes.push(format!(
                "the base `{}` isn't here yet: nothing of it was checked, and it's fetched by the first job",
                config.model_id
            ));
        }
        let estimate = base.size.estimate(self.study, &config, on_gpu);
        let weights = base.size.weight_bytes(&config, on_gpu);
        let place = match on_gpu {
            true => Place::Gpu {
                divides: settings.gpu_layers != GpuLayers::All
                    && layers_on_cpu::takes(config.dtype),
            },
            false => Place::Cpu(settings.weights.unwrap_or(WeightsMode::Mapped)),
        };
        match self.node.room(place, weights, estimate.memory_bytes) {
            Room::Enough => {}
            Room::Slower(note) => notes.push(note),
            Room::TooSmall(why) => return Err(why),
        }
        let found = self.experiments[name].as_ref().map_err(String::clone)?;
        let study = Study {
            settings,
            ..self.study.clone()
        };
        let parameters = inputs::of_parameters(&study, &config, self.prompts.as_deref());
        let parts = inputs::parts(
            found.digest.clone(),
            base.digest.clone(),
            parameters,
            &self.program,
        );
        Ok(Job {
            job: number,
            key: parts.key(),
            combination: combination.clone(),
            base: config.model_id,
            base_is_here: base.model.is_some(),
            parts,
            estimate,
            notes,
        })
    }

    fn look_at_experiment(&mut self, name: &str) {
        if !self.experiments.contains_key(name) {
            let found = self.found(name);
            self.experiments.insert(name.to_owned(), found);
        }
    }

    fn found(&mut self, name: &str) -> Result<Found, String> {
        let values = self.study.settings.values;
        let experiment = Experiment::find_with(Path::new(name), values);
        let experiment = experiment.map_err(|error| in_full(&error))?;
        let faults = look_at(&experiment.folder, values).faults;
        if !faults.is_empty() {
            return Err(faults.join("; "));
        }
        let digest = inputs::of_experiment(&experiment, &mut self.digests);
        Ok(Found {
            digest: digest.map_err(|error| format!("cannot read `{name}`: {error}"))?,
            experiment,
        })
    }

    fn look_at_base(&mut self, name: &str) {
        if !self.bases.contains_key(name) {
            let found = self.base(name);
            self.bases.insert(name.to_owned(), found);
        }
    }

    fn base(&mut self, name: &str) -> Result<Base, String> {
        let id = ModelId::parse(name).map_err(|error| in_full(&error))?;
        let model = BaseModel::at_hand(&id);
        let model = model.map_err(|error| format!("base `{name}`: {}", in_full(&error)))?;
        let folder = model.as_ref().map(|model| model.folder.as_path());
        let digest = inputs::of_base(&id, folder, &mut self.digests);
        let size = model.as_ref().map(BaseSize::of).transpose();
        Ok(Base {
            digest: digest.map_err(|error| format!("cannot read `{name}`: {error}"))?,
            size: size
                .map_err(|error| format!("base `{name}`: {}", in_full(&error)))?
                .unwrap_or_default(),
            model,
        })
    }

    /// Whether the experiment `name` fits its base.
    fn fit(&mut self, name: &str, config: &BenchmarkConfig) -> Result<Fits, String> {
        let key = (name.to_owned(), config.model_id.clone(), config.task_id);
        if let Some(known) = self.fits.get(&key) {
            return known.clone();
        }
        let found = self.experiments[name].as_ref().map_err(String::clone)?;
        let base = self.bases[&config.model_id]
            .as_ref()
            .map_err(String::clone)?;
        let fits = match &base.model {
            None => Ok(Fits::default()),
            Some(model) => fit(&found.experiment, model, config.task_id)
                .map(|fit| Fits {
                    merge_refusal: fit.merge_refusal,
                    has_prefix: fit.has_prefix,
                })
                .map_err(|error| in_full(&error)),
        };
        self.fits.insert(key, fits.clone());
        fits
    }
}

/// Refuses batches that ONNX Runtime can't run.
fn check_batches(fits: &Fits, config: &BenchmarkConfig, on_gpu: bool) -> Result<(), String> {
    let several = config.batch_sizes.iter().find(|size| **size > 1);
    let attention = Precision::new(config.dtype, on_gpu).attention;
    match (fits.has_prefix, attention, several) {
        (true, AttentionOperator::GroupQuery, Some(&batch_size)) => {
            Err(EngineError::PrefixBatch { batch_size }.to_string())
        }
        _ => Ok(()),
    }
}

/// Where a model is to have room.
#[derive(Debug, Clone, Copy)]
enum Place {
    Cpu(WeightsMode),
    Gpu {
        /// Whether layers that have no room may be computed on the CPU.
        divides: bool,
    },
}

/// Whether a model has room on a node.
enum Room {
    Enough,
    /// Weights are read from the disk again and again, or layers are computed on the CPU; a note
    /// that says so.
    Slower(String),
    /// It can't run, and why.
    TooSmall(String),
}

impl Node {
    /// Whether `weights`, with everything else `needed` bytes, have room here.
    fn room(self, place: Place, weights: u64, needed: u64) -> Room {
        match (place, self.gpu_bytes, self.ram_bytes) {
            (Place::Gpu { divides }, Some(has), ram) if needed > has => {
                let sizes = format!(
                    "its variants need about {} on the GPU at once, and one has {}",
                    gibibytes(needed),
                    gibibytes(has)
                );
                match divides && ram.is_none_or(|ram| needed - has <= ram) {
                    true => Room::Slower(format!(
                        "{sizes}: layers that have no room are computed on the CPU, which takes longer than estimated; \
                         `--gpu-layers all` refuses that"
                    )),
                    false => Room::TooSmall(format!(
                        "{sizes}; take a larger one, `--quantize`, or `--ep cpu`"
                    )),
                }
            }
            (Place::Cpu(WeightsMode::Resident), _, Some(has)) if needed > has => {
                Room::TooSmall(format!(
                    "its variants need about {} of RAM with `--weights resident`, and there are {}; `--weights mapped` \
                     leaves them on the disk",
                    gibibytes(needed),
                    gibibytes(has)
                ))
            }
            (Place::Cpu(_), _, Some(has)) if weights > has => Room::Slower(format!(
                "its weights take {} and the RAM is {}: they stay mapped, and steps wait for the disk",
                gibibytes(weights),
                gibibytes(has)
            )),
            _ => Room::Enough,
        }
    }
}

/// Whether a job runs on a GPU; `auto` takes one that there is, but for float32.
pub fn is_on_gpu(provider: ProviderChoice, dtype: Dtype, node: Node) -> bool {
    match provider {
        ProviderChoice::Cpu => false,
        ProviderChoice::Cuda => true,
        ProviderChoice::Auto => node.gpu_bytes.is_some() && dtype != Dtype::Float32,
    }
}

fn gibibytes(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

/// An error and its causes, in one line.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn spec(experiments: &[&str]) -> Spec {
        Spec {
            experiments: experiments.iter().map(|&name| name.to_owned()).collect(),
            models: vec!["synthetic/llama-57m".to_owned()],
            ..Spec::default()
        }
    }

    fn on_cpu() -> Study {
        let mut study = Study::default();
        study.settings.provider = ProviderChoice::Cpu;
        study
    }

    #[test]
    fn what_cannot_run_is_refused_with_its_reason_and_the_rest_is_planned() {
        let spec = spec(&["lora/lora_r8", "lora/no_such_one", "lora/lora_r8"]);
        let (jobs, refusals, _) = jobs(&spec, &on_cpu(), Node::default()).unwrap();
        assert_eq!((jobs.len(), refusals.len()), (1, 1));
        assert!(
            refusals[0].refused.contains("`lora/no_such_one`"),
            "{refusals:?}"
        );
        assert!(jobs[0].estimate.seconds > 0.0 && jobs[0].estimate.memory_bytes > 57_000_000 * 4);
    }

    #[test]
    fn a_method_that_does_not_merge_is_noted() {
        let spec = spec(&["prompt_tuning/tokens20"]);
        let (jobs, refusals, _) = jobs(&spec, &on_cpu(), Node::default()).unwrap();
        assert!(refusals.is_empty(), "{refusals:?}");
        assert!(
            jobs[0].notes[0].contains("can't be merged"),
            "{:?}",
            jobs[0].notes
        );
    }

    #[test]
    fn the_key_depends_on_what_is_measured_and_not_on_paths() {
        let key = |study: &Study| {
            let (jobs, ..) = jobs(&spec(&["lora/lora_r8"]), study, Node::default()).unwrap();
            jobs[0].key.clone()
        };
        let usual = key(&on_cpu());
        let elsewhere = Study {
            output: "elsewhere".into(),
            ..on_cpu()
        };
        assert_eq!(key(&elsewhere), usual);
        let mut threads = on_cpu();
        threads.settings.threads = Some(1);
        assert_ne!(key(&threads).work(), usual.work());
        let restarts = Study {
            restarts: 3,
            ..on_cpu()
        };
        assert_ne!(key(&restarts).work(), usual.work());
    }

    #[test]
    fn a_model_that_is_larger_than_the_memory_is_refused_with_both_sizes_or_stays_mapped() {
        let node = Node {
            ram_bytes: Some(16 * GIB),
            gpu_bytes: Some(8 * GIB),
        };
        let refused = |room| match room {
            Room::TooSmall(why) => why,
            _ => panic!("it has room"),
        };
        let [whole, divided] = [false, true].map(|divides| Place::Gpu { divides });
        let why = refused(node.room(whole, 4 * GIB, 13 * GIB));
        assert!(why.contains("13.0 GiB") && why.contains("8.0 GiB"), "{why}");
        let room = node.room(divided, 4 * GIB, 13 * GIB);
        assert!(matches!(room, Room::Slower(note) if note.contains("computed on the CPU")));
        // More than both memories have.
        refused(node.room(divided, 9 * GIB, 27 * GIB));
        let resident = Place::Cpu(WeightsMode::Resident);
        let why = refused(node.room(resident, 15 * GIB, 17 * GIB));
        assert!(
            why.contains("17.0 GiB") && why.contains("16.0 GiB"),
            "{why}"
        );
        let mapped = Place::Cpu(WeightsMode::Mapped);
        let room = node.room(mapped, 17 * GIB, 18 * GIB);
        assert!(matches!(room, Room::Slower(note) if note.contains("wait for the disk")));
        assert!(matches!(node.room(whole, GIB, 4 * GIB), Room::Enough));
    }
}
