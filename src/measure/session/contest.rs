//! A measurement under way: the variants take turns, stage by stage, until the overheads are known.

use std::time::Duration;

use super::contestant::Contestant;
use super::{Entrant, MeasurePlan, Measurement, Meters, Precision, Step, Target};
use crate::measure::client::{VariantProcess, WorkerError};
use crate::measure::comparison::{half_width, measured, overhead};
use crate::measure::protocol::OpenRequest;
use crate::measure::record::{PromptPlan, VariantRecord};
use crate::measure::schedule::{balanced_order, balanced_period};
use crate::measure::subject::Subject;
use crate::measure::timings::Clock;
use crate::prepared::PreparedVariant;

/// A measurement under way.
pub(super) struct Contest<'a, P> {
    pub plan: &'a MeasurePlan,
    pub start: &'a dyn Fn(&str) -> Result<P, WorkerError>,
    pub clock: &'a dyn Clock,
    pub meters: Meters<'a>,
    pub progress: &'a dyn Fn(Step),
    pub contestants: Vec<Contestant<P>>,
    /// Generations that are done, and in all.
    pub done: usize,
    pub total: usize,
}

impl<P: VariantProcess> Contest<'_, P> {
    pub(super) fn run(mut self) -> Measurement {
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
        contestant.record.step_graph = opened.step_graph;
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
