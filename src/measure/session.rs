//! Measures variants against each other: a worker process each, taking turns run by run.
//!
//! Whatever the machine drifts, it hits all variants alike, and overheads are taken from pairs of
//! neighbouring runs.

use std::path::PathBuf;

use super::client::{Interrupt, WorkerClient, WorkerError};
use super::protocol::{OpenRequest, ParityRequest};
use super::record::{PromptPlan, RunRecord, VariantRecord};
use super::schedule::balanced_order;
use crate::engine::EngineOptions;
use crate::prepare::{PreparedVariant, Variant};
use crate::prompts::Category;
use crate::runtime::library::Library;
use crate::verify::Parity;

/// What is measured, and how.
#[derive(Debug)]
pub struct MeasurePlan {
    /// This program, which is started as the workers.
    pub program: PathBuf,
    /// ONNX Runtime.
    pub library: Library,
    /// Variants, the base first where it's among them.
    pub variants: Vec<(Variant, PreparedVariant)>,
    /// Prompts, by category.
    pub prompts: Vec<PromptPlan>,
    /// Measured generations of each prompt.
    pub runs: usize,
    /// How sessions are opened; the cache is sized for each variant.
    pub options: EngineOptions,
    /// Chooses the order of the variants.
    pub seed: u64,
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
        /// The prompt's category.
        category: Category,
    },
}

/// A variant with its worker, while it lives.
struct Contestant {
    record: VariantRecord,
    worker: Option<WorkerClient>,
}

impl Contestant {
    /// Ends the variant, not the run.
    fn fail(&mut self, error: &WorkerError) {
        self.record.error = Some(error.to_string());
        self.worker = None;
    }
}

/// Tokens that the variants are compared on.
const PARITY_TOKENS: usize = 8;

impl MeasurePlan {
    /// Compares what the variants compute, on the shortest prompt, in a process of its own: those that are measured
    /// afterwards begin with nothing of it in their memory.
    ///
    /// # Errors
    /// If it's interrupted. Whatever else goes wrong is a check that isn't passed.
    pub fn parity(&self, interrupt: &Interrupt) -> Result<Option<Parity>, WorkerError> {
        let Some(prompt) = self.shortest_prompt() else {
            return Ok(None);
        };
        let variants: Vec<PreparedVariant> = self.variants.iter().map(|(_, p)| p.clone()).collect();
        let room = |prepared: &PreparedVariant| {
            let manifest = &prepared.manifest;
            let used = manifest.num_virtual_tokens() + prompt.prompt_ids.len();
            manifest.max_position_embeddings.saturating_sub(used)
        };
        let room = variants.iter().map(room).min().unwrap_or(0);
        let checked = WorkerClient::start(self.program.clone(), "parity check", interrupt)
            .and_then(|mut worker| {
                worker.parity(ParityRequest {
                    library: self.library.clone(),
                    variants,
                    options: self.options.clone(),
                    prompt_ids: prompt.prompt_ids.clone(),
                    new_tokens: PARITY_TOKENS.min(room).max(1),
                })
            });
        match checked {
            Err(WorkerError::Interrupted) => Err(WorkerError::Interrupted),
            Err(error) => Ok(Some(Parity::impossible(error.to_string()))),
            Ok(parity) => Ok(parity),
        }
    }

    fn shortest_prompt(&self) -> Option<&PromptPlan> {
        let prompts = self.prompts.iter();
        prompts.min_by_key(|prompt| prompt.prompt_ids.len())
    }

    /// Runs the measurement. A variant whose worker fails has its error in its record, and the others go
    /// on; without the base nothing can be compared, so its failure ends them all.
    ///
    /// # Errors
    /// If it's interrupted. What was measured until then is in the records.
    pub fn run(
        &self,
        interrupt: &Interrupt,
        progress: &dyn Fn(Step),
    ) -> (Vec<VariantRecord>, Result<(), WorkerError>) {
        let mut contestants: Vec<Contestant> = Vec::new();
        let outcome = self.contest(&mut contestants, interrupt, progress);
        let records = contestants.into_iter().map(|contestant| contestant.record);
        (records.collect(), outcome)
    }

    fn contest(
        &self,
        contestants: &mut Vec<Contestant>,
        interrupt: &Interrupt,
        progress: &dyn Fn(Step),
    ) -> Result<(), WorkerError> {
        for (variant, prepared) in &self.variants {
            progress(Step::Opening(variant.name()));
            contestants.push(Contestant {
                record: VariantRecord {
                    variant: *variant,
                    session_seconds: 0.0,
                    warmup_runs: 0,
                    runs: Vec::new(),
                    stages: Vec::new(),
                    error: None,
                },
                worker: None,
            });
            let contestant = contestants.last_mut().expect("one was pushed just now");
            let opened = self.open(contestant, prepared, interrupt);
            settle(contestant, opened)?;
        }

        let orders = balanced_order(
            contestants.len(),
            self.prompts.len() * (self.runs + 1),
            self.seed,
        );
        let mut orders = orders.into_iter();
        let total = self.prompts.len() * (self.runs + 1) * contestants.len();
        let mut done = 0;
        for category in Category::ALL {
            let prompts = self
                .prompts
                .iter()
                .filter(|prompt| prompt.category == category);
            let mut measured = false;
            for prompt in prompts {
                // The first round of each prompt warms up.
                for round in 0..=self.runs {
                    let order = orders.next().expect("an order was drawn for every round");
                    for index in order {
                        progress(Step::Generating {
                            done,
                            total,
                            category,
                        });
                        let contestant = &mut contestants[index];
                        let run = round.checked_sub(1);
                        let generated = generate(contestant, prompt, run);
                        settle(contestant, generated)?;
                        done += 1;
                    }
                }
                measured = true;
            }
            if measured {
                for contestant in contestants.iter_mut() {
                    let stage = end_stage(contestant, category.name());
                    settle(contestant, stage)?;
                }
            }
        }
        for contestant in contestants.iter_mut() {
            let stage = end_stage(contestant, "benchmark_complete");
            settle(contestant, stage)?;
        }
        Ok(())
    }

    fn open(
        &self,
        contestant: &mut Contestant,
        prepared: &PreparedVariant,
        interrupt: &Interrupt,
    ) -> Result<(), WorkerError> {
        let longest = self
            .prompts
            .iter()
            .map(|prompt| prompt.prompt_ids.len() + prompt.new_tokens)
            .max()
            .unwrap_or(0);
        let mut options = self.options.clone();
        options.max_length = prepared.manifest.num_virtual_tokens() + longest;
        let name = contestant.record.variant.name();
        let mut worker = WorkerClient::start(self.program.clone(), name, interrupt)?;
        let opened = worker.open(OpenRequest {
            library: self.library.clone(),
            variant: prepared.clone(),
            options,
        })?;
        contestant.record.session_seconds = opened.session_seconds;
        contestant.record.stages = opened.stages;
        contestant.worker = Some(worker);
        if let Some(shortest) = self.shortest_prompt() {
            generate(contestant, shortest, None)?;
            end_stage(contestant, "warmed_up")?;
        }
        Ok(())
    }
}

/// Generates once; `run` is absent for a warm-up.
fn generate(
    contestant: &mut Contestant,
    prompt: &PromptPlan,
    run: Option<usize>,
) -> Result<(), WorkerError> {
    let Some(worker) = &mut contestant.worker else {
        return Ok(());
    };
    let (_, timings) = worker.generate(&prompt.prompt_ids, prompt.new_tokens)?;
    match run {
        None => contestant.record.warmup_runs += 1,
        Some(run) => contestant.record.runs.push(RunRecord {
            category: prompt.category,
            prompt: prompt.index,
            run,
            timings,
        }),
    }
    Ok(())
}

fn end_stage(contestant: &mut Contestant, name: &str) -> Result<(), WorkerError> {
    if let Some(worker) = &mut contestant.worker {
        contestant.record.stages.push(worker.stage(name)?);
    }
    Ok(())
}

/// Decides what an error ends: an interruption or the base's failure everything, others the variant.
fn settle(contestant: &mut Contestant, result: Result<(), WorkerError>) -> Result<(), WorkerError> {
    let Err(error) = result else {
        return Ok(());
    };
    contestant.fail(&error);
    if matches!(error, WorkerError::Interrupted) || contestant.record.variant == Variant::Base {
        return Err(error);
    }
    Ok(())
}
