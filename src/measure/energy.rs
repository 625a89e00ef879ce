//! The energy of a generation, if the machine has a counter.
//!
//! On a CPU it's read from RAPL, which counts whole processor packages: everything that runs on
//! them, and idle power. On a GPU it's read from NVML's counter of the whole device. Most virtual
//! machines have neither, and on most systems only root may read RAPL (since 2020).
//!
//! Sources: Linux, `Documentation/power/powercap/powercap.rst`; NVML API reference,
//! `nvmlDeviceGetTotalEnergyConsumption`.

use std::fs;
use std::path::{Path, PathBuf};

use nvml_wrapper::Nvml;
use serde::{Deserialize, Serialize};

use crate::engine::Provider;
use crate::machine::nvml::{load_nvml, visible_devices};

/// Which counter energy was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EnergyMethod {
    /// All processor packages.
    RaplPackages,
    /// One GPU.
    NvmlDevice,
}

/// Reads an energy counter.
pub trait EnergyMeter {
    /// The counters' present values; `None` without a counter.
    fn read(&self) -> Option<Vec<u64>>;

    /// Joules used between two readings.
    fn joules(&self, before: &[u64], after: &[u64]) -> Option<f64>;
}

/// The machine's own counters.
#[derive(Debug)]
pub enum SystemMeter {
    /// RAPL: each package's counter file, and the value in microjoules at which it wraps around.
    Rapl(Vec<(PathBuf, u64)>),
    /// NVML: the device's index.
    Nvml(Box<Nvml>, u32),
    /// There's no counter.
    Absent,
}

impl SystemMeter {
    /// The counter of the processor or GPU that `provider` runs on.
    pub fn new(provider: Provider) -> Self {
        let found = match provider {
            Provider::Cpu => rapl(Path::new("/sys/class/powercap")),
            Provider::Cuda(device) => nvml(device),
        };
        found.unwrap_or(Self::Absent)
    }

    /// Which counter is read; `None` without one.
    pub fn method(&self) -> Option<EnergyMethod> {
        match self {
            Self::Rapl(_) => Some(EnergyMethod::RaplPackages),
            Self::Nvml(..) => Some(EnergyMethod::NvmlDevice),
            Self::Absent => None,
        }
    }
}

impl EnergyMeter for SystemMeter {
    fn read(&self) -> Option<Vec<u64>> {
        match self {
            Self::Rapl(packages) => packages.iter().map(|(path, _)| number(path)).collect(),
            Self::Nvml(nvml, index) => {
                let device = nvml.device_by_index(*index).ok()?;
                Some(vec![device.total_energy_consumption().ok()?])
            }
            Self::Absent => None,
        }
    }

    fn joules(&self, before: &[u64], after: &[u64]) -> Option<f64> {
        match self {
            Self::Rapl(packages) => {
                let ranges: Vec<u64> = packages.iter().map(|(_, range)| *range).collect();
                Some(microjoules(before, after, &ranges) as f64 / 1e6)
            }
            // NVML counts millijoules since the driver was loaded.
            Self::Nvml(..) => Some(after.first()?.checked_sub(*before.first()?)? as f64 / 1e3),
            Self::Absent => None,
        }
    }
}

/// The packages `intel-rapl:N` below `folder`, AMD's too. Their subdomains `intel-rapl:N:M` are
/// included in them, so they're skipped.
fn rapl(folder: &Path) -> Option<SystemMeter> {
    let mut packages = Vec::new();
    for entry in fs::read_dir(folder).ok()?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_package = name
            .strip_prefix("intel-rapl:")
            .is_some_and(|number| number.parse::<u32>().is_ok());
        if !is_package {
            continue;
        }
        let kind = fs::read_to_string(entry.path().join("name")).ok()?;
        // `psys`, the whole platform, includes the packages.
        if kind.starts_with("package") {
            let counter = entry.path().join("energy_uj");
            number(&counter)?;
            packages.push((counter, number(&entry.path().join("max_energy_range_uj"))?));
        }
    }
    packages.sort();
    (!packages.is_empty()).then_some(SystemMeter::Rapl(packages))
}

fn nvml(device: u32) -> Option<SystemMeter> {
    let nvml = load_nvml()?;
    let index = *visible_devices(&nvml).get(usize::try_from(device).ok()?)?;
    let readable = |nvml: &Nvml| nvml.device_by_index(index)?.total_energy_consumption();
    readable(&nvml).ok()?;
    Some(SystemMeter::Nvml(Box::new(nvml), index))
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The sum of the counters' increases. A counter that's lower than before has wrapped around once:
/// at 200 W that takes 20 minutes, and readings are one generation apart.
fn microjoules(before: &[u64], after: &[u64], ranges: &[u64]) -> u64 {
    let counters = before.iter().zip(after).zip(ranges);
    counters
        .map(|((before, after), range)| {
            if after >= before {
                after - before
            } else {
                range.saturating_sub(*before) + after
            }
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(folder: &Path, name: &str, kind: &str, value: &str) {
        let path = folder.join(name);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("name"), format!("{kind}\n")).unwrap();
        fs::write(path.join("energy_uj"), format!("{value}\n")).unwrap();
        fs::write(path.join("max_energy_range_uj"), "10000000\n").unwrap();
    }

    #[test]
    fn packages_are_summed_and_a_counter_may_wrap_around() {
        let folder = tempfile::tempdir().unwrap();
        package(folder.path(), "intel-rapl:0", "package-0", "9000000");
        package(folder.path(), "intel-rapl:1", "package-1", "2000000");
        package(folder.path(), "intel-rapl:0:0", "core", "1");
        package(folder.path(), "intel-rapl:2", "psys", "1");
        let meter = rapl(folder.path()).unwrap();
        assert_eq!(meter.method(), Some(EnergyMethod::RaplPackages));
        let before = meter.read().unwrap();
        assert_eq!(before, [9_000_000, 2_000_000]);
        package(folder.path(), "intel-rapl:0", "package-0", "500000");
        package(folder.path(), "intel-rapl:1", "package-1", "2250000");
        let after = meter.read().unwrap();
        assert_eq!(meter.joules(&before, &after), Some(1.75));
    }

    #[test]
    fn a_machine_without_counters_has_no_figure() {
        let folder = tempfile::tempdir().unwrap();
        assert!(rapl(folder.path()).is_none());
        assert!(rapl(&folder.path().join("absent")).is_none());
        let unreadable = folder.path().join("intel-rapl:0");
        fs::create_dir(&unreadable).unwrap();
        fs::write(unreadable.join("name"), "package-0\n").unwrap();
        assert!(rapl(folder.path()).is_none());
        assert_eq!(SystemMeter::Absent.read(), None);
        assert_eq!(SystemMeter::new(Provider::Cuda(u32::MAX)).method(), None);
    }
}
