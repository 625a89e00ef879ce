//! The control group's quota of processor time.
//!
//! Sources: Linux, `Documentation/admin-guide/cgroup-v2.rst`, `Documentation/scheduler/sched-bwc.rst`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::root::Root;
use crate::machine::cgroup::{Version, folders};

/// The control group's quota of processor time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ControlGroup {
    /// The version of control groups that the quota is of.
    pub version: Option<u8>,
    /// How many cores' time the group may use: the lowest quota from it up to the root.
    pub cpu_quota: Option<CpuQuota>,
    /// Periods that were accounted while this ran, and those in which the group was stopped.
    pub periods: Option<u64>,
    /// Periods in which the group had used its quota up, and was stopped.
    pub throttled_periods: Option<u64>,
    /// For how long it was stopped, in seconds, added up over its cores.
    pub throttled_seconds: Option<f64>,
}

/// A quota, in cores.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum CpuQuota {
    /// So many cores' time.
    Cores(f64),
    /// There's none.
    Unlimited(Unlimited),
}

/// The word for no quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unlimited {
    /// `"unlimited"`
    Unlimited,
}

impl CpuQuota {
    /// The cores, if there's a quota.
    pub fn cores(self) -> Option<f64> {
        match self {
            Self::Cores(cores) => Some(cores),
            Self::Unlimited(_) => None,
        }
    }
}

/// What the groups have counted so far. A group is stopped by its own quota and by those above it,
/// each of which counts for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bandwidth(Vec<Counts>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Counts {
    folder: PathBuf,
    periods: u64,
    throttled: u64,
    microseconds: u64,
}

impl ControlGroup {
    /// Notes what was counted between two readings, of the group that was stopped longest.
    pub(super) fn set_throttled(&mut self, before: &Bandwidth, after: &Bandwidth) {
        let grown = after.0.iter().filter_map(|after| {
            let mut all = before.0.iter();
            let before = all.find(|before| before.folder == after.folder)?;
            Some((
                after.microseconds.saturating_sub(before.microseconds),
                after.throttled.saturating_sub(before.throttled),
                after.periods.saturating_sub(before.periods),
            ))
        });
        if let Some((microseconds, throttled, periods)) = grown.max() {
            self.periods = Some(periods);
            self.throttled_periods = Some(throttled);
            self.throttled_seconds = Some(microseconds as f64 / 1e6);
        }
    }
}

/// The group's folders and those above it, in the hierarchy that accounts for processor time.
fn groups(root: &Root) -> Option<(Version, Vec<PathBuf>)> {
    let own = root.text("proc/self/cgroup")?;
    let mount = root.0.join("sys/fs/cgroup");
    let found = folders(&own, &mount, "cpu").into_iter();
    // Where both versions are mounted, `cpu` is in one of them.
    found
        .map(|(version, folders)| {
            let counts = folders.into_iter();
            let counts: Vec<PathBuf> = counts
                .filter(|folder| folder.join("cpu.stat").is_file())
                .collect();
            (version, counts)
        })
        .filter(|(_, folders)| !folders.is_empty())
        .min_by_key(|(version, _)| *version)
}

pub(super) fn read(root: &Root) -> ControlGroup {
    let Some((version, folders)) = groups(root) else {
        return ControlGroup::default();
    };
    let quota = |folder: &PathBuf| {
        let text = |name: &str| Root(folder.clone()).text(name);
        let (quota, period) = match version {
            Version::One => (text("cpu.cfs_quota_us")?, text("cpu.cfs_period_us")?),
            Version::Two => {
                let both = text("cpu.max")?;
                let (quota, period) = both.split_once(' ')?;
                (quota.to_owned(), period.to_owned())
            }
        };
        // `max` and -1 are no quota.
        let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
        (quota > 0.0 && period > 0.0).then(|| quota / period)
    };
    let lowest = folders.iter().filter_map(quota).min_by(f64::total_cmp);
    ControlGroup {
        version: Some(match version {
            Version::One => 1,
            Version::Two => 2,
        }),
        cpu_quota: Some(match lowest {
            Some(cores) => CpuQuota::Cores(cores),
            None => CpuQuota::Unlimited(Unlimited::Unlimited),
        }),
        ..ControlGroup::default()
    }
}

pub(super) fn bandwidth(root: &Root) -> Option<Bandwidth> {
    let (_, folders) = groups(root)?;
    let counts = folders.into_iter().filter_map(|folder| {
        let text = Root(folder.clone()).text("cpu.stat")?;
        let number = |key: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(' '));
            let (_, value) = lines.find(|(name, _)| *name == key)?;
            value.parse::<u64>().ok()
        };
        let microseconds = number("throttled_usec")
            .or_else(|| number("throttled_time").map(|nanoseconds| nanoseconds / 1000))?;
        Some(Counts {
            periods: number("nr_periods")?,
            throttled: number("nr_throttled")?,
            microseconds,
            folder,
        })
    });
    let counts: Vec<Counts> = counts.collect();
    (!counts.is_empty()).then_some(Bandwidth(counts))
}
