//! What else kept the cores busy while something was measured.
//!
//! The kernel counts the time of every core by what it was spent on; what this process and its children used is
//! known, and the rest was somebody else's. Time that a hypervisor gave to other machines (`steal`) is counted
//! apart. Only cores that this process may run on are looked at.
//!
//! Sources: `man 5 proc_stat`; `man 2 getrusage`.

use serde::{Deserialize, Serialize};

/// From this share of the cores' time on, a measurement was disturbed.
pub const DISTURBED: f64 = 0.10;

/// What else happened on the cores between two moments.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interference {
    /// The load average of the last minute before; what runs here isn't in it yet.
    pub load_before: Option<f64>,
    /// The load average of the last minute at the end, this program in it.
    pub load_after: Option<f64>,
    /// Other processes' part of the allowed cores' time, from 0 to 1.
    pub other_processes_share: f64,
    /// The part that a hypervisor gave to others, from 0 to 1.
    pub steal_share: f64,
    /// Both together are above [`DISTURBED`].
    pub disturbed: bool,
}

/// Watches from when it's made.
#[derive(Debug, Clone, PartialEq)]
pub struct InterferenceWatch {
    load: Option<f64>,
    cores: CoreTimes,
    own_seconds: f64,
}

/// Time of the allowed cores since the machine was started, in clock ticks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct CoreTimes {
    total: u64,
    /// Of any process, without `steal`.
    busy: u64,
    steal: u64,
}

impl InterferenceWatch {
    /// Begins; `None` where the system doesn't tell (only Linux does).
    pub fn start() -> Option<Self> {
        Some(Self {
            load: load_average(),
            cores: core_times_now()?,
            own_seconds: own_seconds()?,
        })
    }

    /// What happened since. Children that were waited for count as this process; so end them first.
    pub fn finish(&self) -> Option<Interference> {
        let cores = core_times_now()?;
        let own_ticks = (own_seconds()? - self.own_seconds) * ticks_per_second()?;
        let mut found = interference(self.cores, cores, own_ticks)?;
        (found.load_before, found.load_after) = (self.load, load_average());
        Some(found)
    }
}

/// The shares between two readings in which this program used `own_ticks`.
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

/// Sums the lines `cpuN …` of `stat` for the cores in `allowed`; all of them without a list.
fn core_times(stat: &str, allowed: Option<&[u32]>) -> Option<CoreTimes> {
    let mut sum = CoreTimes::default();
    for line in stat.lines() {
        let mut fields = line.split_ascii_whitespace();
        let Some(core) = fields.next().and_then(|name| name.strip_prefix("cpu")) else {
            continue;
        };
        // The line `cpu` is of all cores.
        let Ok(core) = core.parse() else {
            continue;
        };
        if allowed.is_some_and(|allowed| !allowed.contains(&core)) {
            continue;
        }
        // user nice system idle iowait irq softirq steal; what guests use is in user and nice already.
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

#[cfg(target_os = "linux")]
fn core_times_now() -> Option<CoreTimes> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    core_times(&stat, crate::machine::allowed_cores().as_deref())
}

#[cfg(not(target_os = "linux"))]
fn core_times_now() -> Option<CoreTimes> {
    None
}

/// Processor time of this process, and of children that it waited for.
#[expect(unsafe_code, reason = "the standard library has no `getrusage`")]
fn own_seconds() -> Option<f64> {
    let seconds = |who| {
        // SAFETY: all of the structure's fields may be zero.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: it's written to a structure of the right type.
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
    // SAFETY: a question without pointers.
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
