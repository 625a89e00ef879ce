//! Measures variants against each other: a worker process each, taking turns run by run.
//!
//! Whatever the machine drifts, it hits all variants alike, and overheads are taken from pairs of
//! neighbouring runs.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::bandwidth::RateMeter;
use super::client::{Interrupt, VariantProcess, WorkerClient, WorkerError};
use super::comparison::{half_width, measured, overhead};
use super::energy::EnergyMeter;
use super::group::Group;
use super::protocol::{Comparison, OpenRequest, ParityRequest, SwapRequest};
use super::record::{PromptPlan, RunRecord, VariantRecord, label};
use super::schedule::{balanced_order, balanced_period};
use super::subject::Subject;
use super::swap::SwapResult;
use super::timings::{Clock, SystemClock};
use crate::engine::EngineOptions;
use crate::prepare::PreparedVariant;
use crate::runtime::library::Library;
use crate::verify::Parity;

/// What is measured, and how.
#[derive(Debug, Clone)]
pub struct MeasurePlan {
    /// This program, which is started as the workers.
    pub program: PathBuf,
    /// ONNX Runtime.
    pub library: Library,
    /// Who takes part, the base first where it's among them.
    pub entrants: Vec<Entrant>,
    /// Prompts, by group.
    pub prompts: Vec<PromptPlan>,
    /// Measured generations of each prompt; with a target, at least so many.
    pub runs: usize,
    /// How sessions are opened; the cache is sized for each variant.
    pub options: EngineOptions,
    /// Chooses the order of the variants, and draws the bootstrap.
    pub seed: u64,
    /// Go on until the overheads are known so well.
    pub target: Option<Target>,
}

/// One that takes part in a measurement.
#[derive(Debug, Clone)]
pub struct Entrant {
    /// What it is.
    pub subject: Subject,
    /// Its experiment, where several are measured together; the base belongs to none.
    pub experiment: Option<String>,
    /// What it runs.
    pub prepared: PreparedVariant,
}

impl Entrant {
    /// Its name, with its experiment's where several are measured together.
    pub fn label(&self) -> String {
        label(self.experiment.as_deref(), self.subject)
    }
}

/// The machine's meters, read while measuring.
#[derive(Clone, Copy)]
pub struct Meters<'a> {
    /// Of energy.
    pub energy: &'a dyn EnergyMeter,
    /// Of the rate at which memory is read.
    pub memory: &'a dyn RateMeter,
}

/// How well overheads shall be known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// The most that half of an overhead's interval may be, in percentage points.
    pub half_width_pct: f64,
    /// Begin no further round after so much time.
    pub max_time: Duration,
}

/// What came of a [`Target`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Precision {
    /// The most that half of an interval was allowed to be, in percentage points.
    pub target_pct: f64,
    /// Half of the widest overall interval at the end; absent where there's none.
    pub half_width_pct: Option<f64>,
    /// The target was met.
    pub met: bool,
    /// Measured generations of each prompt.
    pub runs: usize,
}

/// Everything that was measured.
#[derive(Debug)]
pub struct Measurement {
    /// One a subject, as far as it came.
    pub records: Vec<VariantRecord>,
    /// What came of the target, where there was one and it came so far.
    pub precision: Option<Precision>,
    /// What ended it early.
    pub outcome: Result<(), WorkerError>,
}

/// What's told while measuring.
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    /// What the variants compute is compared.
    Comparing,
    /// A session is opened.
    Opening(&'a str),
    /// So many of so many generations are done; the one at hand.
    Generating {
        /// Generations that are done.
        done: usize,
        /// Generations in all, warm-up included.
        total: usize,
        /// The prompt's group.
        group: Group,
    },
    /// The target isn't met yet, after so many measured generations of each prompt.
    Precision {
        /// Half of the widest overall interval, in percentage points; infinite where there's none yet.
        half_width_pct: f64,
        /// What it shall be.
        target_pct: f64,
        /// Measured generations of each prompt.
        runs: usize,
    },
}

/// Tokens that the variants are compared on.
const PARITY_TOKENS: usize = 8;

impl MeasurePlan {
    /// Compares what the variants of an experiment compute, on the shortest prompt, with an invocation that the adapter
    /// may need, in a process of its own: those that are measured
    /// afterwards begin with nothing of it in their memory.
    ///
    /// # Errors
    /// If it's interrupted. Whatever else goes wrong is a check that isn't passed.
    pub fn parity(
        &self,
        experiment: Option<&str>,
        interrupt: &Interrupt,
    ) -> Result<Comparison, WorkerError> {
        let start = |name: &str| WorkerClient::start(self.program.clone(), name, interrupt);
        self.parity_in(experiment, &start)
    }

    fn parity_in<P: VariantProcess>(
        &self,
        experiment: Option<&str>,
        start: &dyn Fn(&str) -> Result<P, WorkerError>,
    ) -> Result<Comparison, WorkerError> {
        let Some(prompt) = self.shortest_prompt() else {
            return Ok(Comparison::default());
        };
        let plain = self
            .entrants
            .iter()
            .filter(|one| one.experiment.is_none() || one.experiment.as_deref() == experiment)
            .filter(|one| !matches!(one.subject, Subject::BaseAgain | Subject::UnmergedEmpty));
        let variants: Vec<PreparedVariant> = plain.map(|one| one.prepared.clone()).collect();
        let all = variants.iter().map(|prepared| &prepared.manifest);
        let invoking = all.fold(prompt.prompt_ids.clone(), |ids, one| one.invoking(&ids));
        let room = |prepared: &PreparedVariant| {
            let manifest = &prepared.manifest;
            let used = manifest.num_virtual_tokens() + invoking.len();
            manifest.max_position_embeddings.saturating_sub(used)
        };
        let room = variants.iter().map(room).min().unwrap_or(0);
        let checked = start("parity check").and_then(|mut worker| {
            worker.parity(ParityRequest {
                library: self.library.clone(),
                variants,
                options: self.options.clone(),
                prompt_ids: invoking,
                new_tokens: PARITY_TOKENS.min(room).max(1),
            })
        });
        match checked {
            Err(WorkerError::Interrupted) => Err(WorkerError::Interrupted),
            Err(error) => Ok(Comparison {
                parity: Some(Parity::impossible(error.to_string())),
                ..Comparison::default()
            }),
            Ok(comparison) => Ok(comparison),
        }
    }

    /// Lets the adapter of `unmerged` and `others` take turns, in a process of its own, behind the shortest prompt.
    ///
    /// # Errors
    /// If it's interrupted.
    pub fn swaps(
        &self,
        unmerged: &PreparedVariant,
        others: Vec<PreparedVariant>,
        interrupt: &Interrupt,
    ) -> Result<SwapResult, WorkerError> {
        let start = |name: &str| WorkerClient::start(self.program.clone(), name, interrupt);
        self.swaps_in(unmerged, others, &start)
    }

    fn swaps_in<P: VariantProcess>(
        &self,
        unmerged: &PreparedVariant,
        others: Vec<PreparedVariant>,
        start: &dyn Fn(&str) -> Result<P, WorkerError>,
    ) -> Result<SwapResult, WorkerError> {
        let Some(prompt) = self.shortest_prompt() else {
            return Ok(SwapResult::Absent("there is no prompt".to_owned()));
        };
        let mut options = self.options.clone();
        options.max_length = unmerged.manifest.num_virtual_tokens() + prompt.prompt_ids.len() + 1;
        let swapped = start("swap").and_then(|mut worker| {
            worker.swap(SwapRequest {
                open: OpenRequest {
                    library: self.library.clone(),
                    variant: unmerged.clone(),
                    options,
                },
                others,
                prompt_ids: prompt.prompt_ids.clone(),
                rounds: self.runs,
            })
        });
        match swapped {
            Err(WorkerError::Interrupted) => Err(WorkerError::Interrupted),
            Err(error) => Ok(SwapResult::Failed(error.to_string())),
            Ok(times) => Ok(SwapResult::Measured(times)),
        }
    }

    fn shortest_prompt(&self) -> Option<&PromptPlan> {
        let prompts = self.prompts.iter();
        prompts.min_by_key(|prompt| prompt.prompt_ids.len())
    }

    /// Runs the measurement. A variant whose worker fails has its error in its record, and the others go
    /// on; without the base nothing can be compared, so its failure ends them all.
    pub fn run(
        &self,
        interrupt: &Interrupt,
        meters: Meters,
        progress: &dyn Fn(Step),
    ) -> Measurement {
        let start = |name: &str| WorkerClient::start(self.program.clone(), name, interrupt);
        Contest {
            plan: self,
            start: &start,
            clock: &SystemClock::new(),
            meters,
            progress,
            contestants: Vec::new(),
            done: 0,
            total: 0,
        }
        .run()
    }

    fn groups(&self) -> BTreeSet<Group> {
        self.prompts.iter().map(|prompt| prompt.group).collect()
    }
}

/// A subject with its process, while it lives.
struct Contestant<P> {
    record: VariantRecord,
    process: Option<P>,
}

/// A measurement under way.
struct Contest<'a, P> {
    plan: &'a MeasurePlan,
    start: &'a dyn Fn(&str) -> Result<P, WorkerError>,
    clock: &'a dyn Clock,
    meters: Meters<'a>,
    progress: &'a dyn Fn(Step),
    contestants: Vec<Contestant<P>>,
    /// Generations that are done, and in all.
    done: usize,
    total: usize,
}

impl<P: VariantProcess> Contest<'_, P> {
    fn run(mut self) -> Measurement {
        let mut precision = None;
        let outcome = self.measure(&mut precision);
        let records = self.contestants.into_iter().map(|one| one.record);
        Measurement {
            records: records.collect(),
            precision,
            outcome,
        }
    }

    fn measure(&mut self, precision: &mut Option<Precision>) -> Result<(), WorkerError> {
        let started = self.clock.now();
        for entrant in &self.plan.entrants {
            (self.progress)(Step::Opening(&entrant.label()));
            let Entrant {
                subject,
                experiment,
                prepared,
            } = entrant;
            let (experiment, batch_size) = (experiment.clone(), self.plan.options.batch_size);
            self.contestants.push(Contestant {
                record: VariantRecord::new(*subject, experiment, prepared, batch_size),
                process: None,
            });
            let index = self.contestants.len() - 1;
            let opened = self.open(index, prepared);
            self.settle(index, opened)?;
        }

        let count = self.contestants.len();
        let mut orders = balanced_order(count, balanced_period(count), self.plan.seed)
            .into_iter()
            .cycle();
        self.total = self.plan.prompts.len() * (self.plan.runs + 1) * count;
        // The first round of each prompt warms up.
        let rounds: Vec<Option<usize>> = std::iter::once(None)
            .chain((0..self.plan.runs).map(Some))
            .collect();
        self.pass(&mut orders, &rounds)?;
        if let Some(target) = self.plan.target {
            self.reach(target, started, &mut orders, precision)?;
        }
        self.end_stage("benchmark_complete")
    }

    /// Adds rounds, each a run of every prompt, until the target is met or its time is over.
    fn reach(
        &mut self,
        target: Target,
        started: Duration,
        orders: &mut dyn Iterator<Item = Vec<usize>>,
        precision: &mut Option<Precision>,
    ) -> Result<(), WorkerError> {
        let mut runs = self.plan.runs;
        loop {
            let widest = self.widest_interval();
            let met = widest.is_some_and(|width| width <= target.half_width_pct);
            *precision = Some(Precision {
                target_pct: target.half_width_pct,
                half_width_pct: widest.filter(|width| width.is_finite()),
                met,
                runs,
            });
            let Some(half_width_pct) = widest.filter(|_| !met) else {
                return Ok(());
            };
            (self.progress)(Step::Precision {
                half_width_pct,
                target_pct: target.half_width_pct,
                runs,
            });
            if self.clock.now().saturating_sub(started) >= target.max_time {
                return Ok(());
            }
            self.total = self.done + self.plan.prompts.len() * self.contestants.len();
            self.pass(orders, &[Some(runs)])?;
            runs += 1;
        }
    }

    /// Half of the widest overall interval; infinite where one has none yet, `None` where nothing is compared.
    fn widest_interval(&self) -> Option<f64> {
        let live = || self.contestants.iter().filter(|one| one.process.is_some());
        let base = &live()
            .find(|one| one.record.variant == Subject::Base)?
            .record;
        live()
            .map(|one| &one.record)
            .filter(|record| record.variant != Subject::Base)
            .map(|record| {
                let over = overhead(base, record, &measured(base), true, self.plan.seed);
                over.as_ref().and_then(half_width).unwrap_or(f64::INFINITY)
            })
            .max_by(f64::total_cmp)
    }

    /// Every prompt in turn, each with all `rounds`; a round without a number warms up.
    fn pass(
        &mut self,
        orders: &mut dyn Iterator<Item = Vec<usize>>,
        rounds: &[Option<usize>],
    ) -> Result<(), WorkerError> {
        let plan = self.plan;
        for group in plan.groups() {
            let prompts = plan.prompts.iter();
            for prompt in prompts.filter(|prompt| prompt.group == group) {
                for run in rounds {
                    let rate = run.and_then(|_| self.meters.memory.read());
                    for index in orders.next().unwrap_or_default() {
                        (self.progress)(Step::Generating {
                            done: self.done,
                            total: self.total,
                            group,
                        });
                        let meter = self.meters.energy;
                        let generated = self.contestants[index].generate(prompt, *run, meter, rate);
                        self.settle(index, generated)?;
                        self.done += 1;
                    }
                }
            }
            self.end_stage(&group.to_string())?;
        }
        Ok(())
    }

    fn end_stage(&mut self, name: &str) -> Result<(), WorkerError> {
        for index in 0..self.contestants.len() {
            let ended = self.contestants[index].end_stage(name);
            self.settle(index, ended)?;
        }
        Ok(())
    }

    fn open(&mut self, index: usize, prepared: &PreparedVariant) -> Result<(), WorkerError> {
        let plan = self.plan;
        let length = |prompt: &PromptPlan| prompt.prompt_ids.len() + prompt.new_tokens;
        let longest = plan.prompts.iter().map(length).max().unwrap_or(0);
        let mut options = plan.options.clone();
        options.max_length = prepared.manifest.num_virtual_tokens() + longest;
        let contestant = &mut self.contestants[index];
        let mut process = (self.start)(&contestant.record.label())?;
        let opened = process.open(OpenRequest {
            library: plan.library.clone(),
            variant: prepared.clone(),
            options,
        })?;
        contestant.record.session_seconds = opened.session_seconds;
        contestant.record.stages = opened.stages;
        contestant.process = Some(process);
        if let Some(shortest) = plan.shortest_prompt() {
            contestant.generate(shortest, None, self.meters.energy, None)?;
            contestant.end_stage("warmed_up")?;
        }
        Ok(())
    }

    /// Decides what an error ends: an interruption or the base's failure everything, others the variant.
    fn settle(&mut self, index: usize, result: Result<(), WorkerError>) -> Result<(), WorkerError> {
        let Err(error) = result else {
            return Ok(());
        };
        let contestant = &mut self.contestants[index];
        contestant.record.error = Some(error.to_string());
        contestant.process = None;
        let base = contestant.record.variant == Subject::Base;
        if base || matches!(error, WorkerError::Interrupted) {
            return Err(error);
        }
        Ok(())
    }
}

impl<P: VariantProcess> Contestant<P> {
    /// Generates once; `run` is absent for a warm-up.
    fn generate(
        &mut self,
        prompt: &PromptPlan,
        run: Option<usize>,
        meter: &dyn EnergyMeter,
        memory_rate: Option<f64>,
    ) -> Result<(), WorkerError> {
        let Some(process) = &mut self.process else {
            return Ok(());
        };
        let before = meter.read();
        let (_, timings) = process.generate(&prompt.prompt_ids, prompt.new_tokens)?;
        let energy = || meter.joules(&before?, &meter.read()?);
        match run {
            None => self.record.warmup_runs += 1,
            Some(run) => self.record.runs.push(RunRecord {
                group: prompt.group,
                prompt: prompt.index,
                prompt_tokens: prompt.prompt_ids.len(),
                run,
                timings,
                energy_joules: energy(),
                memory_rate,
            }),
        }
        Ok(())
    }

    fn end_stage(&mut self, name: &str) -> Result<(), WorkerError> {
        if let Some(process) = &mut self.process {
            self.record.add_stage(process.stage(name)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
