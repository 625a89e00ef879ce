//! Load from other processes and other virtual machines during a measurement.
//!
//! The kernel counts each core's busy time. This process's and its children's time is subtracted;
//! the rest belongs to other processes. Time that the hypervisor gave to other virtual machines
//! (`steal`) is counted separately. Only the cores that this process may run on are considered.
//!
//! Sources: `man 5 proc_stat`; `man 2 getrusage`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::machine::allowed_cores;
use crate::machine::processes::process_ticks;

/// A measurement is called disturbed above this share of the cores' time.
pub const DISTURBED: f64 = 0.10;

/// Other load on the cores between two points in time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interference {
    /// The load average of the minute before the start; this program isn't in it yet.
    pub load_before: Option<f64>,
    /// The load average of the last minute at the end; includes this program.
    pub load_after: Option<f64>,
    /// Other processes' share of the allowed cores' time, from 0 to 1.
    pub other_processes_share: f64,
    /// The share that the hypervisor gave to other virtual machines, from 0 to 1.
    pub steal_share: f64,
    /// Whether the sum of both shares is above [`DISTURBED`].
    pub disturbed: bool,
}

/// Measures interference from its creation on.
#[derive(Debug, Clone, PartialEq)]
pub struct InterferenceWatch {
    load: Option<f64>,
    start: Reading,
}

/// What the allowed cores have done so far, and how much of it for this program.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Reading {
    cores: CoreTimes,
    own_ticks: f64,
}

/// Time of the allowed cores since the machine was started, in clock ticks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct CoreTimes {
    total: u64,
    /// Time of all processes, without `steal`.
    busy: u64,
    steal: u64,
}

impl InterferenceWatch {
    /// Starts to measure; `None` on systems other than Linux.
    pub fn start() -> Option<Self> {
        Some(Self {
            load: load_average(),
            start: Reading::now(&[])?,
        })
    }

    /// The interference since the start. Children count as this program only once they've been
    /// waited for, so end them first.
    pub fn finish(&self) -> Option<Interference> {
        let mut found = Reading::now(&[])?.since(&self.start)?;
        (found.load_before, found.load_after) = (self.load, load_average());
        Some(found)
    }
}

impl Reading {
    /// Reads the cores' times now. `children` are those that haven't been waited for.
    pub(super) fn now(children: &[u32]) -> Option<Self> {
        let root = Path::new("/");
        let stat = std::fs::read_to_string(root.join("proc/stat")).ok()?;
        let waited_for = own_seconds()? * ticks_per_second()?;
        let ticks = |pid: &u32| process_ticks(root, *pid);
        let running: u64 = children.iter().filter_map(ticks).sum();
        Some(Self {
            cores: core_times(&stat, allowed_cores().as_deref())?,
            own_ticks: waited_for + running as f64,
        })
    }

    /// The interference between an earlier reading and this one, without the load.
    pub(super) fn since(&self, before: &Self) -> Option<Interference> {
        interference(before.cores, self.cores, self.own_ticks - before.own_ticks)
    }

    /// Clock ticks of the allowed cores since an earlier reading.
    pub(super) fn ticks_since(&self, before: &Self) -> u64 {
        self.cores.total.saturating_sub(before.cores.total)
    }
}

/// The shares between two readings, between which this program used `own_ticks`.
fn interference(before: CoreTimes, after: CoreTimes, own_ticks: f64) -> Option<Interference> {
    let total = after.total.checked_sub(before.total).filter(|t| *t > 0)? as f64;
    let busy = after.busy.saturating_sub(before.busy) as f64;
    let steal = after.steal.saturating_sub(before.steal) as f64;
    let other_processes_share = ((busy - own_ticks) / total).clamp(0.0, 1.0);
    let steal_share = (steal / total).clamp(0.0, 1.0);
    Some(Interference {
        load_before: None,
        load_after: None,
        other_processes_share,
        steal_share,
        disturbed: other_processes_share + steal_share > DISTURBED,
    })
}

/// Sums up the lines `cpuN …` of `stat` for the cores in `allowed`, or for all cores if it's
/// `None`.
fn core_times(stat: &str, allowed: Option<&[u32]>) -> Option<CoreTimes> {
    let mut sum = CoreTimes::default();
    for line in stat.lines() {
        let mut fields = line.split_ascii_whitespace();
        let Some(core) = fields.next().and_then(|name| name.strip_prefix("cpu")) else {
            continue;
        };
        // The line `cpu` is the sum over all cores.
        let Ok(core) = core.parse() else {
            continue;
        };
        if allowed.is_some_and(|allowed| !allowed.contains(&core)) {
            continue;
        }
        // user nice system idle iowait irq softirq steal; guests' time is already in user and nice.
        let times: Vec<u64> = fields.take(8).filter_map(|t| t.parse().ok()).collect();
        let &[user, nice, system, idle, iowait, irq, softirq, steal] = times.as_slice() else {
            return None;
        };
        let busy = user + nice + system + irq + softirq;
        sum.busy += busy;
        sum.steal += steal;
        sum.total += busy + steal + idle + iowait;
    }
    (sum.total > 0).then_some(sum)
}

/// Processor time of this process and of the children that it has waited for.
#[expect(unsafe_code, reason = "the standard library has no `getrusage`")]
fn own_seconds() -> Option<f64> {
    let seconds = |who| {
        // SAFETY: zero is valid for all fields of the structure.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a structure of the right type.
        if unsafe { libc::getrusage(who, &raw mut usage) } != 0 {
            return None;
        }
        let time = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
        Some(time(usage.ru_utime) + time(usage.ru_stime))
    };
    Some(seconds(libc::RUSAGE_SELF)? + seconds(libc::RUSAGE_CHILDREN)?)
}

#[expect(unsafe_code, reason = "the standard library has no `sysconf`")]
fn ticks_per_second() -> Option<f64> {
    // SAFETY: `sysconf` takes no pointers.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    (ticks > 0).then_some(ticks as f64)
}

fn load_average() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "cpu  30 0 0 270 0 0 0 0 0 0\n\
                          cpu0 10 0 0 90 0 0 0 0 0 0\n\
                          cpu1 20 0 0 180 0 0 0 0 0 0\n\
                          intr 7\n";
    const AFTER: &str = "cpu  0 0 0 0 0 0 0 0 0 0\n\
                         cpu0 60 5 5 100 2 1 2 25 9 9\n\
                         cpu1 900 0 0 999 0 0 0 0 0 0\n";

    #[test]
    fn only_allowed_cores_are_summed_and_guests_are_not_counted_twice() {
        let times = core_times(AFTER, Some(&[0])).unwrap();
        let expected = CoreTimes {
            total: 200,
            busy: 73,
            steal: 25,
        };
        assert_eq!(times, expected);
        assert_eq!(core_times(BEFORE, None).unwrap().total, 300);
        assert_eq!(core_times(BEFORE, Some(&[5])), None);
        assert_eq!(core_times("cpu0 1 2\n", None), None);
    }

    #[test]
    fn what_this_program_used_is_not_interference() {
        let before = core_times(BEFORE, Some(&[0])).unwrap();
        let after = core_times(AFTER, Some(&[0])).unwrap();
        // 100 ticks: 63 busy, 25 stolen.
        let found = interference(before, after, 60.0).unwrap();
        assert!((found.other_processes_share - 0.03).abs() < 1e-9);
        assert!((found.steal_share - 0.25).abs() < 1e-9);
        assert!(found.disturbed);
        let calm = CoreTimes { steal: 0, ..after };
        assert!(!interference(before, calm, 60.0).unwrap().disturbed);
        assert!(interference(before, calm, 0.0).unwrap().disturbed);
        assert_eq!(interference(before, before, 0.0), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_tells_its_shares() {
        let watch = InterferenceWatch::start().unwrap();
        let mut found = None;
        while found.is_none() {
            found = watch.finish();
        }
        let found = found.unwrap();
        assert!((0.0..=1.0).contains(&found.other_processes_share));
        assert!(found.load_before.is_some() && found.load_after.is_some());
    }
}
