//! What the machine's state says about the figures, and what can be done about it.

use super::Level::{self, Note, Warn};
use super::gpu;
use crate::measure::rounds::RoundLooks;
use crate::report::model::{Report, RunInfo};
use crate::system::environment::{ControlGroup, Environment, Frequency, MemorySettings, Processor};

/// One of them: how much it weighs, words for it, and a sentence.
pub(super) type Reason = (Level, &'static str, String);

/// A share of time in which tasks waited, above which it's told.
const MUCH_WAITING: f64 = 0.10;
/// Memory is missed much earlier.
const MUCH_WAITING_FOR_MEMORY: f64 = 0.01;
/// A share of time that other virtual machines took, above which it's told by itself.
const MUCH_STEAL: f64 = 0.03;
/// Sources of time that are read without a call of the kernel.
const FAST_CLOCKS: &[&str] = &[
    "tsc",
    "kvm-clock",
    "hyperv_clocksource_tsc_page",
    "arch_sys_counter",
];

/// All that the state of the machine gives reason to know.
pub(super) fn reasons(report: &Report) -> Vec<Reason> {
    let run = &report.run_info;
    let mut found = Vec::new();
    others(&mut found, run);
    let Some(environment) = run.environment.value() else {
        return found;
    };
    let on_cpu = run.session.provider == "cpu";
    let threads = run.session.threads;
    if on_cpu {
        clock(&mut found, &environment.frequency);
        cores(&mut found, &environment.processor, threads);
        quota(&mut found, &environment.control_group, threads);
        numa(&mut found, &environment.memory);
    }
    pressure(&mut found, environment, is_disturbed(run));
    if let Some(state) = &environment.gpu {
        gpu::reasons(&mut found, state);
    }
    found
}

/// Others that the share over the whole run doesn't show.
fn others(found: &mut Vec<Reason>, run: &RunInfo) {
    if let Some(gate) = run.quiet_gate.value().filter(|gate| !gate.quiet) {
        let share = percent(gate.other_processes_share + gate.steal_share);
        let text = format!(
            "The machine wasn't quiet after {} s of waiting: others took {share} of the cores' time",
            gate.waited_seconds
        );
        found.push((Warn, "not quiet", text));
    }
    if is_disturbed(run) {
        return;
    }
    if let Some(RoundLooks {
        looks,
        disturbed,
        largest_share,
    }) = run.rounds.value().filter(|rounds| rounds.disturbed > 0)
    {
        let text = format!(
            "Others were busy at {disturbed} of {looks} looks between rounds, with up to {} of the cores' time; \
             `--quiet-gate 60s` waits until the machine is quiet, and more runs (`num_inference_runs`) make bursts weigh less",
            percent(*largest_share)
        );
        found.push((Warn, "bursts", text));
    }
    let steal = run
        .interference
        .value()
        .map_or(0.0, |found| found.steal_share);
    if steal > MUCH_STEAL {
        let text = format!(
            "The hypervisor gave {} of the cores' time to other virtual machines; a dedicated host doesn't",
            percent(steal)
        );
        found.push((Warn, "steal", text));
    }
}

/// Whether others took so much that it's told for the whole run.
fn is_disturbed(run: &RunInfo) -> bool {
    run.interference
        .value()
        .is_some_and(|found| found.disturbed)
}

fn clock(found: &mut Vec<Reason>, clock: &Frequency) {
    if let Some(events) = clock.throttle_events.filter(|events| *events > 0) {
        let heat = clock.temperature_c.after;
        let heat = heat.map_or(String::new(), |heat| {
            format!(", and it had {heat:.0} °C at the end")
        });
        let text = format!(
            "The processor was throttled for its heat {events} times while this ran{heat}; cool it, or let it stay below its \
             limit: {}",
            boost_off(clock)
        );
        found.push((Warn, "throttled", text));
    }
    let governors = clock.governors.iter().flatten();
    let others: Vec<&str> = governors
        .map(String::as_str)
        .filter(|name| *name != "performance")
        .collect();
    if !others.is_empty() {
        // The active drivers' `powersave` raises clocks under load; elsewhere it's the lowest clock.
        let active = clock.driver_status.as_deref() == Some("active");
        let what = match others.contains(&"powersave") && !active {
            true => "keeps the clock at its lowest",
            false => "lets the clock follow the load, so the first steps after a pause are slower",
        };
        let text = format!(
            "The governor {} {what}; `sudo cpupower frequency-set -g performance` keeps it up",
            others.join(", ")
        );
        found.push((Warn, "governor", text));
    }
    if let (Some(highest), Some(hardware)) = (clock.highest_khz, clock.hardware_highest_khz)
        && highest < hardware
    {
        let gigahertz = |khz: u64| khz as f64 / 1e6;
        let text = format!(
            "The clock is limited to {:.2} of {:.2} GHz, so times are comparable with those of the same limit only; \
             `sudo cpupower frequency-set -u {hardware}` lifts it",
            gigahertz(highest),
            gigahertz(hardware)
        );
        found.push((Note, "limited clock", text));
    }
    if clock.boost == Some(true) {
        let text = format!(
            "Boost is on, so clocks depend on heat, and on how many cores are busy. Steadier, and slower: {}",
            boost_off(clock)
        );
        found.push((Note, "boost", text));
    }
}

/// The command that turns boost off.
fn boost_off(clock: &Frequency) -> &'static str {
    match clock.driver.as_deref() {
        Some(driver) if driver.starts_with("intel_pstate") => {
            "`echo 1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo`"
        }
        _ => "`echo 0 | sudo tee /sys/devices/system/cpu/cpufreq/boost`",
    }
}

fn cores(found: &mut Vec<Reason>, processor: &Processor, threads: usize) {
    if let Some(siblings) = &processor.siblings {
        let cores = siblings.len();
        if processor.smt_active == Some(true) && threads > cores {
            let text = format!(
                "{threads} threads ran on {cores} cores, so hardware threads shared a core's units; `--threads {cores}` gives each \
                 a core"
            );
            found.push((Warn, "shared cores", text));
        }
    }
    if let Some(source) = &processor.clock_source
        && !FAST_CLOCKS.contains(&source.as_str())
    {
        let text = format!(
            "The kernel reads the time from {source}, which is slow; where the processor's own counter is stable, \
             `clocksource=tsc` on the kernel's command line takes that"
        );
        found.push((Warn, "slow clock source", text));
    }
    if processor.virtual_machine == Some(true) {
        let text = "It ran in a virtual machine, from which the host's clocks, heat and other guests aren't seen; compare \
                    variants within one result";
        found.push((Note, "virtual machine", text.to_owned()));
    }
}

fn quota(found: &mut Vec<Reason>, group: &ControlGroup, threads: usize) {
    let Some(cores) = group.cpu_quota.and_then(|quota| quota.cores()) else {
        return;
    };
    let fitting = (cores as usize).max(1);
    let remedy = format!("raise the quota, or take `--threads {fitting}`");
    let stopped = group.throttled_seconds.filter(|seconds| *seconds > 0.0);
    match (stopped, threads as f64 > cores) {
        (Some(seconds), _) => {
            let periods = match (group.throttled_periods, group.periods) {
                (Some(throttled), Some(periods)) => {
                    format!(", in {throttled} of {periods} periods")
                }
                _ => String::new(),
            };
            let text = format!(
                "The control group's quota of {cores} cores stopped it for {seconds:.1} s{periods}; {remedy}"
            );
            found.push((Warn, "stopped by quota", text));
        }
        (None, true) => {
            let text = format!("{threads} threads ran under a quota of {cores} cores; {remedy}");
            found.push((Warn, "quota", text));
        }
        (None, false) => {
            let text =
                format!("The control group has a quota of {cores} cores, which didn't stop it");
            found.push((Note, "quota", text));
        }
    }
}

fn numa(found: &mut Vec<Reason>, memory: &MemorySettings) {
    if let Some([first, _, ..]) = memory.nodes_of_cores.as_deref() {
        let count = memory.nodes_of_cores.as_ref().map_or(0, Vec::len);
        let text = format!(
            "Its cores are on {count} NUMA nodes, and memory is farther from some of them; \
             `numactl --cpunodebind={first} --membind={first} peft-bench …` stays on one"
        );
        found.push((Note, "several NUMA nodes", text));
    }
    if memory.huge_page_defrag.as_deref() == Some("always")
        && memory.transparent_huge_pages.as_deref() == Some("always")
    {
        let text = "The kernel makes room for huge pages whenever memory is asked for, which may stall a step; \
                    `echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/defrag` leaves it to programs that ask";
        found.push((Note, "huge pages", text.to_owned()));
    }
}

fn pressure(found: &mut Vec<Reason>, environment: &Environment, disturbed: bool) {
    let Some(pressure) = &environment.pressure else {
        return;
    };
    let cpu = pressure.cpu.filter(|cpu| cpu.some > MUCH_WAITING);
    if let Some(cpu) = cpu.filter(|_| !disturbed) {
        let text = format!(
            "Tasks waited for a core {} of the time; `--quiet-gate 60s` waits until the machine is quiet",
            percent(cpu.some)
        );
        found.push((Warn, "waits for cores", text));
    }
    if let Some(memory) = pressure
        .memory
        .filter(|of| of.some > MUCH_WAITING_FOR_MEMORY)
    {
        let text = format!(
            "Tasks waited for memory {} of the time, as pages were freed or read back; end other programs, or take a smaller \
             model or batch",
            percent(memory.some)
        );
        found.push((Warn, "waits for memory", text));
    }
    if let Some(io) = pressure.io.filter(|io| io.some > MUCH_WAITING) {
        let text = format!(
            "Tasks waited for storage {} of the time. If weights were read again while this ran, free memory, or take \
             `--weights resident`",
            percent(io.some)
        );
        found.push((Note, "waits for storage", text));
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::pressure::{Pressure, Waiting};
    use crate::measure::record::scripted as record;
    use crate::measure::subject::Subject;
    use crate::report::build::scripted;
    use crate::report::model::Maybe;
    use crate::system::environment::{BeforeAfter, CpuQuota};

    /// The reasons of a result on two threads, in this environment.
    fn of(environment: Environment) -> Vec<Reason> {
        let mut report = scripted::report(&[record(Subject::Base, 1)], &[], None);
        report.run_info.environment = Maybe::Value(environment);
        reasons(&report)
    }

    fn shorts(found: &[Reason]) -> Vec<&'static str> {
        found.iter().map(|(_, short, _)| *short).collect()
    }

    #[test]
    fn a_machine_that_tells_nothing_gives_no_reason() {
        assert_eq!(of(Environment::default()), []);
    }

    #[test]
    fn a_hot_laptop_is_told_what_to_do() {
        let found = of(Environment {
            frequency: Frequency {
                driver: Some("intel_pstate".to_owned()),
                driver_status: Some("active".to_owned()),
                governors: Some(vec!["performance".to_owned(), "powersave".to_owned()]),
                boost: Some(true),
                highest_khz: Some(2_000_000),
                hardware_highest_khz: Some(4_700_000),
                temperature_c: BeforeAfter {
                    before: Some(60.0),
                    after: Some(97.4),
                },
                throttle_events: Some(6),
                ..Frequency::default()
            },
            ..Environment::default()
        });
        assert_eq!(
            shorts(&found),
            ["throttled", "governor", "limited clock", "boost"]
        );
        assert!(found[0].2.contains("6 times") && found[0].2.contains("97 °C"));
        assert!(found[0].2.contains("intel_pstate/no_turbo"));
        assert!(
            found[1]
                .2
                .contains("powersave lets the clock follow the load")
        );
        assert!(found[2].2.contains("2.00 of 4.70 GHz"));
    }

    #[test]
    fn the_lowest_clock_is_called_that() {
        let found = of(Environment {
            frequency: Frequency {
                driver: Some("acpi-cpufreq".to_owned()),
                governors: Some(vec!["powersave".to_owned()]),
                ..Frequency::default()
            },
            ..Environment::default()
        });
        assert!(found[0].2.contains("keeps the clock at its lowest"));
    }

    #[test]
    fn a_quota_weighs_by_what_it_did() {
        let group = |cores, seconds| {
            of(Environment {
                control_group: ControlGroup {
                    version: Some(2),
                    cpu_quota: Some(CpuQuota::Cores(cores)),
                    periods: Some(50),
                    throttled_periods: Some(25),
                    throttled_seconds: Some(seconds),
                },
                ..Environment::default()
            })
        };
        let stopped = group(2.5, 3.1);
        assert_eq!(stopped[0].0, Warn);
        assert!(
            stopped[0]
                .2
                .contains("stopped it for 3.1 s, in 25 of 50 periods")
        );
        assert!(stopped[0].2.contains("`--threads 2`"));
        assert_eq!(group(1.5, 0.0)[0].0, Warn);
        assert_eq!(group(2.0, 0.0)[0].0, Note);
    }

    #[test]
    fn shared_cores_nodes_and_slow_clocks_are_told() {
        let found = of(Environment {
            processor: Processor {
                smt_active: Some(true),
                siblings: Some(vec![vec![0, 1]]),
                virtual_machine: Some(true),
                clock_source: Some("hpet".to_owned()),
                ..Processor::default()
            },
            memory: MemorySettings {
                nodes_of_cores: Some(vec![1, 3]),
                ..MemorySettings::default()
            },
            pressure: Some(Pressure {
                cpu: Some(Waiting {
                    some: 0.83,
                    full: 0.0,
                }),
                memory: Some(Waiting {
                    some: 0.02,
                    full: 0.0,
                }),
                io: Some(Waiting {
                    some: 0.05,
                    full: 0.0,
                }),
            }),
            ..Environment::default()
        });
        assert_eq!(
            shorts(&found),
            [
                "shared cores",
                "slow clock source",
                "virtual machine",
                "several NUMA nodes",
                "waits for cores",
                "waits for memory"
            ]
        );
        assert!(found[3].2.contains("--cpunodebind=1 --membind=1"));
    }

    #[test]
    fn bursts_are_told_where_the_whole_run_was_calm() {
        let mut report = scripted::report(&[record(Subject::Base, 1)], &[], None);
        report.run_info.rounds = Maybe::Value(RoundLooks {
            looks: 40,
            disturbed: 3,
            largest_share: 0.62,
        });
        let found = reasons(&report);
        assert_eq!(shorts(&found), ["bursts"]);
        assert!(found[0].2.contains("3 of 40 looks") && found[0].2.contains("62 %"));
    }
}
