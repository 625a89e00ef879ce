//! Waiting until the machine is quiet.
//!
//! A look takes a second. It's quiet if other processes and other virtual machines took little of
//! the allowed cores' time in it, and if tasks hardly waited for a core or for memory. Two quiet
//! looks in turn are enough.
//!
//! The load average isn't asked: it lags by a minute, and has this program's own work in it.

use std::fmt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::client::Interrupt;
use super::interference::Reading;
use crate::machine::allowed_cores;
use crate::machine::pressure::{Pressure, PressureTotals};
use crate::machine::processes::Processes;

/// The time of one look.
const LOOK: Duration = Duration::from_secs(1);
/// Quiet looks in turn that are enough.
const QUIET_LOOKS: usize = 2;
/// The largest share of a second in which tasks may wait for a core, or for memory.
const MOST_WAITING: f64 = 0.10;
/// The number of processes that are named.
const NAMED: usize = 3;

/// What's waited for, and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuietGate {
    /// The longest time to wait.
    pub wait: Duration,
    /// The share of the allowed cores' time, from 0 to 1, that others must stay below.
    pub share: f64,
    /// What to do if the machine doesn't become quiet.
    pub otherwise: WhenBusy,
}

/// What to do if the machine doesn't become quiet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenBusy {
    /// Nothing is measured.
    Refuse,
    /// It's measured all the same, and the result says so.
    Measure,
}

/// What a look found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Look {
    /// Other processes' share of the allowed cores' time, from 0 to 1.
    pub other_processes_share: f64,
    /// The share that the hypervisor gave to other virtual machines, from 0 to 1.
    pub steal_share: f64,
    /// Pressure. That of cores is left out if this process may use only some of the machine's.
    pub pressure: Pressure,
    /// Other processes, the heaviest first.
    pub heaviest: Vec<Heavy>,
    /// The part of `other_processes_share` that no process in sight used.
    pub unseen_share: f64,
}

/// A process that kept the cores busy.
#[derive(Debug, Clone, PartialEq)]
pub struct Heavy {
    /// The name of its program.
    pub name: String,
    /// Its number.
    pub pid: u32,
    /// Its share of the allowed cores' time, from 0 to 1.
    pub share: f64,
}

/// What came of waiting.
#[derive(Debug, Clone, PartialEq)]
pub struct Waited {
    /// How long it took, in seconds.
    pub seconds: u64,
    /// Whether the machine was quiet at the end.
    pub quiet: bool,
    /// The last look.
    pub last: Look,
}

/// What came of waiting, as it's kept in a result. It names no process.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GateOutcome {
    /// How long it was to wait at most, in seconds.
    pub wait_seconds: f64,
    /// The share of the allowed cores' time, from 0 to 1, that others were to stay below.
    pub allowed_share: f64,
    /// How long it waited, in seconds.
    pub waited_seconds: u64,
    /// Whether the machine was quiet then.
    pub quiet: bool,
    /// Other processes' share in the last second.
    pub other_processes_share: f64,
    /// Other virtual machines' share in the last second.
    pub steal_share: f64,
}

impl QuietGate {
    /// Waits. Each look that isn't the last is told to `progress`. `None` if the system doesn't
    /// tell what others do, or if `interrupt` was raised.
    pub fn wait(&self, interrupt: &Interrupt, progress: &dyn Fn(&Look)) -> Option<Waited> {
        self.wait_by(&mut || look(interrupt), progress)
    }

    fn wait_by(
        &self,
        look: &mut dyn FnMut() -> Option<Look>,
        progress: &dyn Fn(&Look),
    ) -> Option<Waited> {
        let most = self.wait.as_secs().max(QUIET_LOOKS as u64);
        let (mut seconds, mut in_turn) = (0, 0);
        loop {
            let last = look()?;
            seconds += LOOK.as_secs();
            in_turn = match last.is_quiet(self.share) {
                true => in_turn + 1,
                false => 0,
            };
            let quiet = in_turn >= QUIET_LOOKS;
            if quiet || seconds >= most {
                return Some(Waited {
                    seconds,
                    quiet,
                    last,
                });
            }
            progress(&last);
        }
    }

    /// What a result keeps of it.
    pub fn outcome(&self, waited: &Waited) -> GateOutcome {
        GateOutcome {
            wait_seconds: self.wait.as_secs_f64(),
            allowed_share: self.share,
            waited_seconds: waited.seconds,
            quiet: waited.quiet,
            other_processes_share: waited.last.other_processes_share,
            steal_share: waited.last.steal_share,
        }
    }
}

impl Look {
    /// Whether others took less than `share` of the cores' time, and tasks hardly waited.
    pub fn is_quiet(&self, share: f64) -> bool {
        let waiting = [self.pressure.cpu, self.pressure.memory];
        let waiting = waiting.into_iter().flatten().map(|one| one.some);
        self.other_processes_share + self.steal_share < share
            && waiting.fold(0.0, f64::max) < MOST_WAITING
    }
}

/// Who keeps the machine busy, as `others take 83 % of the cores' time: rustc (pid 7) 40 %, …`.
impl fmt::Display for Look {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let percent = |share: f64| format!("{:.0} %", share * 100.0);
        let all = self.other_processes_share + self.steal_share;
        write!(f, "others take {} of the cores' time", percent(all))?;
        let named = self.heaviest.iter().filter(|one| one.share >= 0.005);
        let mut parts: Vec<String> = named
            .map(|one| format!("{} (pid {}) {}", one.name, one.pid, percent(one.share)))
            .collect();
        if self.unseen_share >= 0.02 {
            let share = percent(self.unseen_share);
            parts.push(format!(
                "{share} by processes that can't be seen: short ones, or of other containers"
            ));
        }
        if self.steal_share >= 0.005 {
            parts.push(format!(
                "{} by other virtual machines",
                percent(self.steal_share)
            ));
        }
        if !parts.is_empty() {
            write!(f, ": {}", parts.join(", "))?;
        }
        let kinds = [
            ("a core", self.pressure.cpu),
            ("memory", self.pressure.memory),
        ];
        for (what, waiting) in kinds {
            if let Some(waiting) = waiting.filter(|waiting| waiting.some >= MOST_WAITING) {
                let share = percent(waiting.some);
                write!(f, "; tasks waited for {what} {share} of the time")?;
            }
        }
        Ok(())
    }
}

/// Looks for a second; `None` if the system doesn't tell, or if `interrupt` was raised.
fn look(interrupt: &Interrupt) -> Option<Look> {
    let root = Path::new("/");
    let started = Instant::now();
    let processes = Processes::read(root);
    let pressure = PressureTotals::read(root);
    let before = Reading::now(&[])?;
    while let Some(left) = LOOK.checked_sub(started.elapsed()) {
        sleep(left.min(Duration::from_millis(50)));
        if interrupt.is_raised() {
            return None;
        }
    }
    let after = Reading::now(&[])?;
    let found = after.since(&before)?;
    let elapsed = started.elapsed();
    let mut pressure = match (pressure, PressureTotals::read(root)) {
        (Some(before), Some(after)) => after.since(&before, elapsed),
        _ => Pressure::default(),
    };
    let allowed = allowed_cores();
    if allowed.as_ref().map(Vec::len) != cores_online(root) {
        pressure.cpu = None;
    }
    let ticks = after.ticks_since(&before) as f64;
    let own = std::process::id();
    let now = Processes::read(root);
    let busy = now.busy_since(&processes, own, allowed.as_deref());
    let seen: f64 = busy.iter().map(|one| one.ticks as f64 / ticks).sum();
    let heaviest = busy.into_iter().take(NAMED).map(|one| Heavy {
        share: one.ticks as f64 / ticks,
        name: one.name,
        pid: one.pid,
    });
    Some(Look {
        other_processes_share: found.other_processes_share,
        steal_share: found.steal_share,
        pressure,
        heaviest: heaviest.collect(),
        unseen_share: (found.other_processes_share - seen).max(0.0),
    })
}

/// How many cores `proc/stat` lists below `root`.
fn cores_online(root: &Path) -> Option<usize> {
    let stat = std::fs::read_to_string(root.join("proc/stat")).ok()?;
    let numbered = |line: &&str| {
        let name = line.strip_prefix("cpu");
        name.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    Some(stat.lines().filter(numbered).count())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::machine::pressure::Waiting;

    fn gate(seconds: u64) -> QuietGate {
        QuietGate {
            wait: Duration::from_secs(seconds),
            share: 0.05,
            otherwise: WhenBusy::Refuse,
        }
    }

    fn busy(share: f64) -> Look {
        Look {
            other_processes_share: share,
            ..Look::default()
        }
    }

    /// Waits on a machine whose others take these shares, second by second.
    fn wait(seconds: u64, shares: &[f64]) -> (Option<Waited>, usize) {
        let mut looks = shares.iter().map(|share| busy(*share));
        let told = Cell::new(0);
        let waited = gate(seconds).wait_by(&mut || looks.next(), &|_| told.set(told.get() + 1));
        (waited, told.get())
    }

    #[test]
    fn two_quiet_seconds_in_turn_are_enough_and_one_is_not() {
        let (waited, told) = wait(30, &[0.01, 0.5, 0.01, 0.02, 0.9]);
        let waited = waited.unwrap();
        assert_eq!((waited.seconds, waited.quiet, told), (4, true, 3));
        assert_eq!(waited.last.other_processes_share, 0.02);
        assert_eq!(wait(30, &[0.0, 0.0]).0.unwrap().seconds, 2);
    }

    #[test]
    fn the_wait_has_an_end_and_the_last_look_says_who_was_busy() {
        let (waited, _) = wait(3, &[0.5, 0.01, 0.7, 0.0, 0.0]);
        let waited = waited.unwrap();
        assert_eq!((waited.seconds, waited.quiet), (3, false));
        let kept = gate(3).outcome(&waited);
        assert!(!kept.quiet && kept.waited_seconds == 3);
        assert_eq!(
            (kept.other_processes_share, kept.allowed_share),
            (0.7, 0.05)
        );
    }

    #[test]
    fn a_system_that_does_not_tell_lets_nobody_wait() {
        assert_eq!(wait(3, &[]).0, None);
    }

    #[test]
    fn tasks_that_wait_for_a_core_or_for_memory_are_not_quiet() {
        let waiting = |some| Some(Waiting { some, full: 0.0 });
        let with = |pressure| Look {
            pressure,
            ..busy(0.01)
        };
        let quiet = with(Pressure {
            cpu: waiting(0.02),
            memory: None,
            io: waiting(0.9),
        });
        assert!(quiet.is_quiet(0.05));
        for pressure in [
            Pressure {
                cpu: waiting(0.3),
                ..Pressure::default()
            },
            Pressure {
                memory: waiting(0.3),
                ..Pressure::default()
            },
        ] {
            assert!(!with(pressure).is_quiet(0.05));
        }
        let stolen = Look {
            steal_share: 0.05,
            ..busy(0.01)
        };
        assert!(!stolen.is_quiet(0.05));
    }

    #[test]
    fn a_look_names_the_heaviest() {
        let look = Look {
            other_processes_share: 0.8,
            steal_share: 0.03,
            pressure: Pressure {
                cpu: Some(Waiting {
                    some: 0.83,
                    full: 0.0,
                }),
                ..Pressure::default()
            },
            heaviest: vec![Heavy {
                name: "rustc".to_owned(),
                pid: 7,
                share: 0.7,
            }],
            unseen_share: 0.1,
        };
        assert_eq!(
            look.to_string(),
            "others take 83 % of the cores' time: rustc (pid 7) 70 %, 10 % by processes that can't be seen: short \
             ones, or of other containers, 3 % by other virtual machines; tasks waited for a core 83 % of the time"
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_that_keeps_a_core_busy_is_seen_on_this_machine() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "while :; do :; done"])
            .spawn()
            .unwrap();
        let found = look(&Interrupt::default());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!found.unwrap().heaviest.is_empty());
        let interrupt = Interrupt::default();
        interrupt.raise();
        assert_eq!(look(&interrupt), None);
    }
}
