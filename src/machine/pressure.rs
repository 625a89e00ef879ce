//! Pressure: for how long tasks had to wait for a core, for memory, or for storage.
//!
//! The kernel counts it for the whole machine. `some` is the time in which at least one task
//! waited, `full` the time in which no task could go on.
//!
//! Source: Linux, `Documentation/accounting/psi.rst`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Shares of the time between two readings. `None` where the system doesn't tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pressure {
    /// Waiting for a core.
    pub cpu: Option<Waiting>,
    /// Waiting for memory: for pages to be freed, or to be read back.
    pub memory: Option<Waiting>,
    /// Waiting for storage.
    pub io: Option<Waiting>,
}

/// Waiting for one resource, as shares of the time, from 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    /// At least one task waited.
    pub some: f64,
    /// No task could go on.
    pub full: f64,
}

/// What the kernel has counted since it started, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PressureTotals {
    cpu: Option<Totals>,
    memory: Option<Totals>,
    io: Option<Totals>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Totals {
    some: u64,
    full: u64,
}

impl PressureTotals {
    /// Reads `proc/pressure` below `root`; `None` if it isn't there, as where the kernel was built
    /// or started without it.
    pub fn read(root: &Path) -> Option<Self> {
        let read = |name: &str| totals(&fs::read_to_string(root.join(name)).ok()?);
        let found = Self {
            cpu: read("proc/pressure/cpu"),
            memory: read("proc/pressure/memory"),
            io: read("proc/pressure/io"),
        };
        let told = found.cpu.is_some() || found.memory.is_some() || found.io.is_some();
        told.then_some(found)
    }

    /// The pressure between an earlier reading and this one, which are `elapsed` apart.
    pub fn since(&self, before: &Self, elapsed: Duration) -> Pressure {
        let waiting = |before: Option<Totals>, after: Option<Totals>| {
            let (before, after) = (before?, after?);
            let elapsed = elapsed.as_micros();
            let share = |before: u64, after: u64| {
                (after.saturating_sub(before) as f64 / elapsed as f64).min(1.0)
            };
            (elapsed > 0).then(|| Waiting {
                some: share(before.some, after.some),
                full: share(before.full, after.full),
            })
        };
        Pressure {
            cpu: waiting(before.cpu, self.cpu),
            memory: waiting(before.memory, self.memory),
            io: waiting(before.io, self.io),
        }
    }
}

/// Parses `some avg10=… total=123`, and the line `full …`, which kernels before 5.13 don't have for
/// cores.
fn totals(text: &str) -> Option<Totals> {
    let total = |kind: &str| {
        let line = text.lines().find(|line| line.starts_with(kind))?;
        let (_, total) = line.split_once("total=")?;
        total.trim().parse().ok()
    };
    Some(Totals {
        some: total("some")?,
        full: total("full").unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(cpu: &str, io: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("proc/pressure");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("cpu"), cpu).unwrap();
        fs::write(folder.join("io"), io).unwrap();
        root
    }

    #[test]
    fn it_is_the_growth_of_the_totals_over_the_time() {
        let read = |cpu: u64, io: u64| {
            let cpu = format!("some avg10=99.00 avg60=0.00 avg300=0.00 total={cpu}\n");
            let io = format!(
                "some avg10=0.00 total={io}\nfull avg10=0.00 total={}\n",
                io / 2
            );
            PressureTotals::read(machine(&cpu, &io).path()).unwrap()
        };
        let found = read(1_500_000, 400).since(&read(1_000_000, 0), Duration::from_secs(2));
        let cpu = found.cpu.unwrap();
        assert_eq!((cpu.some, cpu.full), (0.25, 0.0));
        assert_eq!(found.io.unwrap().full, 0.0001);
        assert_eq!(found.memory, None);
        assert_eq!(read(1, 1).since(&read(0, 0), Duration::ZERO).cpu, None);
    }

    #[test]
    fn a_kernel_that_does_not_count_it_tells_nothing() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(PressureTotals::read(root.path()), None);
        assert_eq!(
            PressureTotals::read(machine("nothing\n", "some\n").path()),
            None
        );
    }
}
