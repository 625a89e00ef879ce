//! A running measurement: opens every subject's session, then runs rounds until the plan is done
//! and the precision goal is reached.

use std::time::Duration;

use super::running_subject::{RunNumber, RunningSubject};
use super::{
    MeasurePlan, Measurement, Meters, PlannedSubject, PrecisionGoal, Progress, ReachedPrecision,
};
use crate::measure::client::{WorkerError, WorkerProcess};
use crate::measure::comparison::{half_width, measured, overhead};
use crate::measure::protocol::OpenRequest;
use crate::measure::record::{PromptPlan, SubjectRecord};
use crate::measure::schedule::{balanced_order, balanced_period};
use crate::measure::subject::Subject;
use crate::measure::timings::Clock;
use crate::prepared::PreparedVariant;

/// The state of a running measurement.
pub(super) struct RunningMeasurement<'a, P> {
    pub plan: &'a MeasurePlan,
    pub start: &'a dyn Fn(&str) -> Result<P, WorkerError>,
    pub clock: &'a dyn Clock,
    pub meters: Meters<'a>,
    pub progress: &'a dyn Fn(Progress),
    pub running: Vec<RunningSubject<P>>,
    /// Generations done, and planned in total.
    pub done: usize,
    pub total: usize,
}

impl<P: WorkerProcess> RunningMeasurement<'_, P> {
    pub(super) fn run(mut self) -> Measurement {
        let mut precision = None;
        let outcome = self.measure(&mut precision);
        let records = self.running.into_iter().map(|one| one.record);
        Measurement {
            records: records.collect(),
            precision,
            outcome,
        }
    }

    fn measure(&mut self, precision: &mut Option<ReachedPrecision>) -> Result<(), WorkerError> {
        let started = self.clock.now();
        for planned in &self.plan.subjects {
            let PlannedSubject {
                subject,
                experiment,
                prepared,
            } = planned;
            let (experiment, batch_size) = (experiment.clone(), self.plan.options.batch_size);
            self.running.push(RunningSubject {
                record: SubjectRecord::new(*subject, experiment, prepared, batch_size),
                process: None,
                session_seconds: Vec::new(),
            });
        }
        let count = self.running.len();
        let mut orders = balanced_order(count, balanced_period(count), self.plan.seed)
            .into_iter()
            .cycle();
        let starts = self.plan.starts.max(1);
        self.total = starts * self.of_a_start();
        for start in 0..starts {
            self.start_anew(start, &mut orders)?;
        }
        let reached = match self.plan.goal {
            Some(goal) => self.reach(goal, started, &mut orders, precision),
            None => Ok(()),
        };
        let complete = reached.and_then(|()| self.end_stage("benchmark_complete"));
        match complete {
            // All planned rounds were measured, and that's a measurement.
            Err(WorkerError::Interrupted) => {
                self.keep_whole_rounds(precision.as_ref());
                Ok(())
            }
            complete => complete,
        }
    }

    /// Drops the runs of a round that was interrupted, and the interruption itself.
    fn keep_whole_rounds(&mut self, reached: Option<&ReachedPrecision>) {
        let interrupted = WorkerError::Interrupted.to_string();
        for subject in &mut self.running {
            let record = &mut subject.record;
            if record.error.as_ref() == Some(&interrupted) {
                record.error = None;
            }
            if let Some(reached) = reached {
                record.runs.retain(|run| run.run < reached.runs);
            }
        }
    }

    /// Generations of one start, warm-up included.
    fn of_a_start(&self) -> usize {
        self.plan.prompts.len() * (self.plan.runs + 1) * self.running.len()
    }

    /// Starts all processes anew, and runs the planned rounds of each prompt. What failed in an
    /// earlier start stays out.
    fn start_anew(
        &mut self,
        start: usize,
        orders: &mut dyn Iterator<Item = Vec<usize>>,
    ) -> Result<(), WorkerError> {
        if start > 0 {
            self.end_stage("benchmark_complete")?;
            for subject in &mut self.running {
                subject.process = None;
            }
        }
        let count = self.running.len();
        // Each start begins with another subject.
        for index in (0..count).map(|place| (place + start) % count) {
            if self.running[index].record.error.is_some() {
                continue;
            }
            let planned = &self.plan.subjects[index];
            (self.progress)(Progress::Opening(&planned.label()));
            let opened = self.open(index, &planned.prepared);
            self.settle(index, opened)?;
        }
        let first = start * self.plan.runs;
        // The first round of each prompt warms up.
        let rounds: Vec<Option<RunNumber>> = std::iter::once(None)
            .chain((first..first + self.plan.runs).map(|run| Some(RunNumber { run, start })))
            .collect();
        self.pass(orders, &rounds)
    }

    /// Adds runs of every prompt, or where there are several starts, further starts, until the goal
    /// is reached or its time is over.
    fn reach(
        &mut self,
        goal: PrecisionGoal,
        started: Duration,
        orders: &mut dyn Iterator<Item = Vec<usize>>,
        precision: &mut Option<ReachedPrecision>,
    ) -> Result<(), WorkerError> {
        let mut starts = self.plan.starts.max(1);
        let mut runs = starts * self.plan.runs;
        loop {
            let widest = self.widest_interval();
            let met = widest.is_some_and(|width| width <= goal.half_width_pct);
            *precision = Some(ReachedPrecision {
                target_pct: goal.half_width_pct,
                half_width_pct: widest.filter(|width| width.is_finite()),
                met,
                runs,
            });
            let Some(half_width_pct) = widest.filter(|_| !met) else {
                return Ok(());
            };
            (self.progress)(Progress::Precision {
                half_width_pct,
                target_pct: goal.half_width_pct,
                runs,
            });
            if self.clock.now().saturating_sub(started) >= goal.max_time {
                return Ok(());
            }
            if self.plan.starts > 1 {
                self.total = self.done + self.of_a_start();
                self.start_anew(starts, orders)?;
                starts += 1;
                runs += self.plan.runs;
            } else {
                self.total = self.done + self.plan.prompts.len() * self.running.len();
                let run = RunNumber {
                    run: runs,
                    start: 0,
                };
                self.pass(orders, &[Some(run)])?;
                runs += 1;
            }
        }
    }

    /// Half-width of the widest overall interval, in percentage points; infinite if a subject has
    /// no interval yet, `None` if there's nothing to compare.
    fn widest_interval(&self) -> Option<f64> {
        let live = || self.running.iter().filter(|one| one.process.is_some());
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

    /// Runs all `rounds` of each prompt. A round of `None` is a warm-up.
    fn pass(
        &mut self,
        orders: &mut dyn Iterator<Item = Vec<usize>>,
        rounds: &[Option<RunNumber>],
    ) -> Result<(), WorkerError> {
        let plan = self.plan;
        for group in plan.groups() {
            let prompts = plan.prompts.iter();
            for prompt in prompts.filter(|prompt| prompt.group == group) {
                for run in rounds {
                    (self.meters.before_round)();
                    let rate = run.and_then(|_| self.meters.memory.read());
                    for index in orders.next().unwrap_or_default() {
                        (self.progress)(Progress::Generating {
                            done: self.done,
                            total: self.total,
                            group,
                        });
                        let meter = self.meters.energy;
                        let generated = self.running[index].generate(prompt, *run, meter, rate);
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
        for index in 0..self.running.len() {
            let ended = self.running[index].end_stage(name);
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
        let subject = &mut self.running[index];
        let mut process = (self.start)(&subject.record.label())?;
        let opened = process.open(OpenRequest {
            library: plan.library.clone(),
            variant: prepared.clone(),
            options,
        })?;
        subject.opened(process, opened);
        if let Some(shortest) = plan.shortest_prompt() {
            subject.generate(shortest, None, self.meters.energy, None)?;
            subject.end_stage("warmed_up")?;
        }
        Ok(())
    }

    /// Records an error of subject `index` and ends its process. Returns the error if it ends the
    /// whole measurement: an interruption, or a failure of the base.
    fn settle(&mut self, index: usize, result: Result<(), WorkerError>) -> Result<(), WorkerError> {
        let Err(error) = result else {
            return Ok(());
        };
        let subject = &mut self.running[index];
        subject.record.error = Some(error.to_string());
        subject.process = None;
        let base = subject.record.variant == Subject::Base;
        if base || matches!(error, WorkerError::Interrupted) {
            return Err(error);
        }
        Ok(())
    }
}
