use std::cell::RefCell;
use std::rc::Rc;

use super::*;
use crate::measure::client::WorkerProcess;
use crate::measure::memory::{PeakMethod, ProcessMemory, StageMemory};
use crate::measure::protocol::{OpenRequest, Opened, ParityCheck, ParityRequest, SwapRequest};
use crate::measure::scripted_clock::ScriptedClock;
use crate::measure::serving::{Served, ServingRequest};
use crate::measure::swap::{SwapResult, SwapTimes};
use crate::measure::timings::{Clock, GenerationTimings};
use crate::onnxruntime::library::Library;
use crate::parity::Parity;
use crate::prepared::{Variant, stand_in};
use crate::prompts::Category;
use crate::random::SplitMix64;

/// A machine on which the base's generations take 100 ms and the others' 120 ms, plus or minus
/// `noise_ms`.
#[derive(Clone)]
struct Machine {
    clock: ScriptedClock,
    noise_ms: usize,
    random: Rc<RefCell<SplitMix64>>,
    /// The generations in order: subject and prompt length.
    log: Rc<RefCell<Vec<String>>>,
    /// The subject that dies, and the number of its generation.
    dies: Option<(&'static str, usize)>,
}

impl Machine {
    fn new(noise_ms: usize) -> Self {
        Self {
            clock: ScriptedClock::default(),
            noise_ms,
            random: Rc::new(RefCell::new(SplitMix64::new(5))),
            log: Rc::default(),
            dies: None,
        }
    }

    fn measure(&self, plan: &MeasurePlan) -> Measurement {
        let start = |name: &str| {
            Ok(Process {
                name: name.to_owned(),
                machine: self.clone(),
                generated: 0,
            })
        };
        let measurement = RunningMeasurement {
            plan,
            start: &start,
            clock: &self.clock,
            meters: Meters {
                energy: self,
                memory: self,
                before_round: &|| {},
            },
            progress: &|_| {},
            running: Vec::new(),
            done: 0,
            total: 0,
        };
        measurement.run()
    }
}

/// One joule every 10 ms.
impl EnergyMeter for Machine {
    fn read(&self) -> Option<Vec<u64>> {
        Some(vec![self.clock.now().as_millis() as u64 / 10])
    }

    fn joules(&self, before: &[u64], after: &[u64]) -> Option<f64> {
        Some((after[0] - before[0]) as f64)
    }
}

/// Ten bytes per second; a reading takes no time.
impl RateMeter for Machine {
    fn read(&self) -> Option<f64> {
        self.log.borrow_mut().push("memory".to_owned());
        Some(10.0)
    }
}

struct Process {
    name: String,
    machine: Machine,
    generated: usize,
}

impl Process {
    fn died(&self) -> WorkerError {
        WorkerError::Died {
            variant: self.name.clone(),
            how: "died".to_owned(),
        }
    }
}

impl WorkerProcess for Process {
    fn open(&mut self, _: OpenRequest) -> Result<Opened, WorkerError> {
        Ok(Opened {
            session_seconds: 0.5,
            step_graph: None,
            stages: Vec::new(),
        })
    }

    fn generate(
        &mut self,
        prompt_ids: &[u32],
        new_tokens: usize,
    ) -> Result<(Vec<u32>, GenerationTimings), WorkerError> {
        self.generated += 1;
        if let Some((name, count)) = self.machine.dies
            && (name, count) == (self.name.as_str(), self.generated)
        {
            return Err(self.died());
        }
        let machine = &self.machine;
        let mean = if self.name.starts_with("base") {
            100
        } else {
            120
        };
        let noise = machine.random.borrow_mut().below(2 * machine.noise_ms + 1);
        let time = Duration::from_millis((mean + noise - machine.noise_ms) as u64);
        machine.clock.advance(time);
        let line = format!("{} {}", self.name, prompt_ids.len());
        machine.log.borrow_mut().push(line);
        let timings = GenerationTimings {
            time_to_first_token: time,
            decode_steps: vec![Duration::ZERO; new_tokens - 1],
        };
        Ok((vec![1; new_tokens], timings))
    }

    fn stage(&mut self, name: &str) -> Result<StageMemory, WorkerError> {
        let rss_bytes = 1000 - self.generated as u64;
        Ok(StageMemory {
            stage: name.to_owned(),
            ram: ProcessMemory {
                rss_bytes,
                anonymous_bytes: None,
                file_backed_bytes: None,
                peak_rss_bytes: None,
            },
            peak_rss_bytes: rss_bytes,
            peak_rss_method: PeakMethod::Samples,
            peak_anonymous_bytes: None,
            disk_waits: None,
            accelerator_allocated_bytes: None,
            arena: None,
            accelerator_reserved_bytes: None,
            peak_accelerator_bytes: None,
            accelerator_method: None,
        })
    }

    fn parity(&mut self, request: ParityRequest) -> Result<ParityCheck, WorkerError> {
        assert_eq!(self.name, "parity check");
        if self.machine.dies.is_some() {
            return Err(self.died());
        }
        let mut parity = Parity::impossible(String::new());
        let lengths: Vec<usize> = request.prompts.iter().map(|one| one.ids.len()).collect();
        assert_eq!(lengths, [3, 7]);
        assert!(request.prompts.iter().all(|prompt| prompt.is_timed));
        assert_eq!(request.prompts[1].new_tokens, 2);
        (parity.of, parity.passed) = (request.prompts[0].new_tokens, true);
        Ok(ParityCheck {
            parity: Some(parity),
            ..ParityCheck::default()
        })
    }

    fn serve(&mut self, _: ServingRequest) -> Result<Served, WorkerError> {
        Err(self.died())
    }

    fn swap(&mut self, request: SwapRequest) -> Result<SwapTimes, WorkerError> {
        assert_eq!(self.name, "swap");
        Ok(SwapTimes {
            load: vec![
                request.rounds as f64,
                request.open.options.max_length as f64,
            ],
            adapter_bytes: 0,
            prompt_tokens: request.prompt_ids.len(),
            swaps: Vec::new(),
        })
    }
}

#[test]
fn swaps_are_asked_for_with_the_shortest_prompt_and_room_for_virtual_tokens() {
    let plan = plan(4, None);
    let machine = Machine::new(0);
    let start = |name: &str| {
        Ok(Process {
            name: name.to_owned(),
            machine: machine.clone(),
            generated: 0,
        })
    };
    let unmerged = &plan.subjects[1].prepared;
    let SwapResult::Measured(times) = plan.swaps_in(unmerged, Vec::new(), &start).unwrap() else {
        panic!("nothing was measured")
    };
    // The scripted process returns values from the request.
    assert_eq!((times.prompt_tokens, times.load), (3, vec![4.0, 4.0]));
}

fn plan(runs: usize, goal: Option<(f64, u64)>) -> MeasurePlan {
    let prompt = |category, length| PromptPlan {
        group: PromptGroup::Category(category),
        index: 0,
        prompt_ids: vec![1; length],
        new_tokens: 2,
    };
    let variants = [Variant::Base, Variant::Unmerged, Variant::Merged];
    MeasurePlan {
        program: PathBuf::new(),
        library: library(),
        subjects: variants
            .map(|variant| PlannedSubject {
                subject: variant.into(),
                experiment: None,
                prepared: stand_in(variant),
            })
            .to_vec(),
        prompts: vec![prompt(Category::Short, 3), prompt(Category::Long, 7)],
        runs,
        starts: 1,
        options: options(),
        seed: 3,
        goal: goal.map(|(half_width_pct, seconds)| PrecisionGoal {
            half_width_pct,
            max_time: Duration::from_secs(seconds),
        }),
    }
}

fn options() -> EngineOptions {
    serde_json::from_value(serde_json::json!({
        "provider": "cpu", "threads": 1, "weights": "mapped", "batch_size": 1, "max_length": 0, "logits_on_host": false,
    }))
    .unwrap()
}

fn runs_of(measurement: &Measurement) -> Vec<usize> {
    let records = measurement.records.iter();
    records.map(|record| record.runs.len()).collect()
}

#[test]
fn every_round_of_every_prompt_has_every_variant_once() {
    let machine = Machine::new(0);
    let measurement = machine.measure(&plan(4, None));
    assert!(measurement.outcome.is_ok() && measurement.precision.is_none());
    assert_eq!(runs_of(&measurement), [8, 8, 8]);
    let energy = |record: &SubjectRecord| record.runs[7].energy_joules;
    assert_eq!(energy(&measurement.records[0]), Some(10.0));
    assert_eq!(energy(&measurement.records[1]), Some(12.0));
    let log = machine.log.borrow();
    let rates = measurement.records.iter().flat_map(|record| &record.runs);
    assert!(
        rates
            .map(|run| run.memory_rate)
            .all(|rate| rate == Some(10.0))
    );
    // Bandwidth is measured before every round that isn't a warm-up.
    let before = log.split(|line| line == "memory").skip(1);
    let rounds: Vec<usize> = before.map(<[String]>::len).collect();
    assert_eq!(rounds, [3, 3, 3, 6, 3, 3, 3, 3]);
    let log: Vec<String> = log
        .iter()
        .filter(|line| *line != "memory")
        .cloned()
        .collect();
    // Each subject warms up on the shortest prompt when its session is opened.
    assert_eq!(log[..3], ["base 3", "unmerged 3", "merged 3"]);
    for (index, round) in log[3..].chunks(3).enumerate() {
        let length = if index < 5 { 3 } else { 7 };
        let mut round = round.to_vec();
        round.sort();
        let expected = ["base", "merged", "unmerged"].map(|name| format!("{name} {length}"));
        assert_eq!(round, expected);
    }
}

#[test]
fn every_start_opens_all_processes_anew_and_runs_are_numbered_on() {
    let machine = Machine::new(0);
    let mut plan = plan(4, None);
    plan.starts = 3;
    let measurement = machine.measure(&plan);
    assert!(measurement.outcome.is_ok());
    assert_eq!(runs_of(&measurement), [24, 24, 24]);
    let group = PromptGroup::Category(Category::Long);
    let record = &measurement.records[1];
    let numbers: Vec<(usize, usize)> = record
        .runs_of(group)
        .map(|run| (run.start, run.run))
        .collect();
    let expected: Vec<(usize, usize)> = (0..12).map(|run| (run / 4, run)).collect();
    assert_eq!(numbers, expected);
    // As each session is opened, and of each prompt.
    assert_eq!(record.warmup_runs, 3 * 3);
    assert_eq!(record.session_seconds, 0.5);
    let stages: Vec<&str> = record.stages.iter().map(|of| of.stage.as_str()).collect();
    assert_eq!(stages, ["warmed_up", "short", "long", "benchmark_complete"]);
    // Each start begins with another subject.
    let log = machine.log.borrow();
    let generations: Vec<&String> = log.iter().filter(|line| *line != "memory").collect();
    let of_a_start = 3 + 2 * 5 * 3;
    assert_eq!(generations.len(), 3 * of_a_start);
    let first = |start: usize| generations[start * of_a_start].as_str();
    assert_eq!([0, 1, 2].map(first), ["base 3", "unmerged 3", "merged 3"]);
}

#[test]
fn whole_starts_are_added_until_the_interval_is_narrow_enough() {
    let mut plan = plan(3, Some((4.0, 6000)));
    plan.starts = 2;
    let measurement = Machine::new(10).measure(&plan);
    let precision = measurement.precision.unwrap();
    assert!(precision.met && precision.runs > 6 && precision.runs.is_multiple_of(3));
    assert_eq!(runs_of(&measurement), [2 * precision.runs; 3]);
    let last = measurement.records[0].runs.last().unwrap();
    assert_eq!(last.start + 1, precision.runs / 3);
}

#[test]
fn a_variant_that_died_is_not_started_again() {
    let mut machine = Machine::new(0);
    machine.dies = Some(("merged", 4));
    let mut plan = plan(5, None);
    plan.starts = 3;
    let measurement = machine.measure(&plan);
    assert!(measurement.outcome.is_ok());
    assert_eq!(runs_of(&measurement), [30, 30, 1]);
}

#[test]
fn a_target_that_is_met_at_once_adds_nothing() {
    let measurement = Machine::new(0).measure(&plan(5, Some((2.0, 600))));
    let precision = measurement.precision.unwrap();
    assert!(precision.met && precision.runs == 5);
    assert!(precision.half_width_pct.unwrap() < 1e-9);
    assert_eq!(runs_of(&measurement), [10, 10, 10]);
}

#[test]
fn rounds_are_added_until_the_interval_is_narrow_enough() {
    let machine = Machine::new(10);
    let coarse = machine.measure(&plan(5, Some((f64::MAX, 6000))));
    let fine = machine.measure(&plan(5, Some((2.0, 6000))));
    let before = coarse.precision.unwrap();
    let after = fine.precision.unwrap();
    assert!(before.half_width_pct.unwrap() > 2.0 && before.runs == 5);
    assert!(after.met && after.half_width_pct.unwrap() <= 2.0);
    assert!(after.runs > 5);
    assert_eq!(runs_of(&fine), [2 * after.runs; 3]);
    let numbers: Vec<usize> = fine.records[1]
        .runs_of(PromptGroup::Category(Category::Long))
        .map(|run| run.run)
        .collect();
    assert_eq!(numbers, (0..after.runs).collect::<Vec<_>>());
    // A group that's measured again remains one stage, with the highest peak.
    let stages: Vec<&str> = fine.records[0]
        .stages
        .iter()
        .map(|stage| stage.stage.as_str())
        .collect();
    assert_eq!(stages, ["warmed_up", "short", "long", "benchmark_complete"]);
    assert!(fine.records[0].stages[1].peak_rss_bytes > fine.records[0].stages[1].ram.rss_bytes);
}

#[test]
fn the_time_ends_it_where_the_target_is_out_of_reach() {
    let machine = Machine::new(20);
    let measurement = machine.measure(&plan(2, Some((1e-6, 8))));
    let precision = measurement.precision.unwrap();
    assert!(!precision.met && precision.runs > 2);
    let elapsed = machine.clock.now();
    // The last round began before the time was over.
    assert!((8.0..9.0).contains(&elapsed.as_secs_f64()), "{elapsed:?}");
}

#[test]
fn a_variant_that_dies_ends_itself_and_the_base_ends_all() {
    let mut machine = Machine::new(0);
    machine.dies = Some(("merged", 4));
    let measurement = machine.measure(&plan(5, Some((2.0, 600))));
    assert!(measurement.outcome.is_ok() && measurement.precision.unwrap().met);
    // The first two of its four generations warm up.
    assert_eq!(runs_of(&measurement), [10, 10, 1]);
    assert!(measurement.records[2].error.is_some());

    machine.dies = Some(("base", 4));
    let measurement = machine.measure(&plan(5, None));
    assert!(measurement.outcome.is_err());
    assert_eq!(measurement.records[0].runs.len(), 1);
}

#[test]
fn parity_is_asked_of_a_process_of_its_own_within_the_models_positions() {
    let machine = Machine::new(0);
    let start = |machine: Machine| {
        move |name: &str| {
            Ok(Process {
                name: name.to_owned(),
                machine: machine.clone(),
                generated: 0,
            })
        }
    };
    let parity = plan(1, None)
        .parity_in(None, &start(machine.clone()))
        .unwrap()
        .parity
        .unwrap();
    // 9 positions, less the 3 of the shortest prompt.
    assert_eq!(parity.of, 6);

    let mut dying = machine;
    dying.dies = Some(("any", 0));
    let parity = plan(1, None)
        .parity_in(None, &start(dying))
        .unwrap()
        .parity
        .unwrap();
    assert!(!parity.passed && parity.failures[0].contains("could not be checked"));
}

fn library() -> Library {
    serde_json::from_value(serde_json::json!({
        "path": "none", "version": "0", "source": "Cache", "has_cuda": false,
    }))
    .unwrap()
}
