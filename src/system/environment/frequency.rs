//! The processor's clock: who chooses it, what limits it, whether it was throttled.
//!
//! Sources: Linux, `Documentation/admin-guide/pm/{cpufreq,intel_pstate,amd-pstate}.rst`,
//! `Documentation/power/powercap/powercap.rst`, `arch/x86/kernel/cpu/mce/therm_throt.c`.

use serde::{Deserialize, Serialize};

use super::BeforeAfter;
use super::root::Root;

const CPU: &str = "sys/devices/system/cpu";
/// Sensors of processors: the names of their drivers.
const SENSORS: &[&str] = &["coretemp", "k10temp", "zenpower", "cpu_thermal"];
/// And the types of their thermal zones, where there's no driver of sensors.
const ZONES: &[&str] = &["x86_pkg_temp", "cpu-thermal", "cpu_thermal", "soc_thermal"];

/// The processor's clock.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Frequency {
    /// The kernel's driver: `intel_pstate`, `amd-pstate-epp`, `acpi-cpufreq`.
    pub driver: Option<String>,
    /// The mode of a driver that has several: `active`, `passive`, `guided`.
    pub driver_status: Option<String>,
    /// Who chooses the clocks of the allowed cores; several if they differ.
    pub governors: Option<Vec<String>>,
    /// Whether the processor itself shall prefer speed or saving energy.
    pub energy_preferences: Option<Vec<String>>,
    /// Whether clocks may rise above the nominal one, while heat and power allow it.
    pub boost: Option<bool>,
    /// The lowest clock that is allowed.
    pub lowest_khz: Option<u64>,
    /// The highest clock that is allowed.
    pub highest_khz: Option<u64>,
    /// The highest clock that the processor has.
    pub hardware_highest_khz: Option<u64>,
    /// The lowest and the highest clock of the allowed cores, while nothing was measured yet, or
    /// any more.
    pub khz: BeforeAfter<Khz>,
    /// The processor's highest temperature, in °C.
    pub temperature_c: BeforeAfter<f64>,
    /// The power that each package may draw for long, in watts.
    pub power_limits_watts: Option<Vec<f64>>,
    /// How often the processor was throttled for its heat while this ran.
    pub throttle_events: Option<u64>,
}

/// The lowest and the highest clock of several cores.
pub type Khz = [u64; 2];

pub(super) fn read(root: &Root, allowed: Option<&[u32]>) -> Frequency {
    let cpus = root.cpus(allowed);
    let of_cpus = |file: &str| root.of_cpus(&cpus, &format!("cpufreq/{file}"));
    let numbers = |file: &str| root.numbers_of_cpus(&cpus, &format!("cpufreq/{file}"));
    Frequency {
        driver: of_cpus("scaling_driver").map(|names| names.join(", ")),
        driver_status: root
            .text(&format!("{CPU}/intel_pstate/status"))
            .or_else(|| root.text(&format!("{CPU}/amd_pstate/status"))),
        governors: of_cpus("scaling_governor"),
        energy_preferences: of_cpus("energy_performance_preference"),
        boost: boost(root),
        lowest_khz: numbers("scaling_min_freq").into_iter().min(),
        highest_khz: numbers("scaling_max_freq").into_iter().max(),
        hardware_highest_khz: numbers("cpuinfo_max_freq").into_iter().max(),
        khz: BeforeAfter {
            before: khz(root, allowed),
            after: None,
        },
        temperature_c: BeforeAfter {
            before: temperature_c(root),
            after: None,
        },
        power_limits_watts: power_limits_watts(root),
        throttle_events: None,
    }
}

/// Intel's driver has a file of its own, which says the opposite.
fn boost(root: &Root) -> Option<bool> {
    let off = root.flag(&format!("{CPU}/intel_pstate/no_turbo"));
    off.map(|off| !off)
        .or_else(|| root.flag(&format!("{CPU}/cpufreq/boost")))
}

pub(super) fn khz(root: &Root, allowed: Option<&[u32]>) -> Option<Khz> {
    let found = root.numbers_of_cpus(&root.cpus(allowed), "cpufreq/scaling_cur_freq");
    Some([*found.iter().min()?, *found.iter().max()?])
}

/// The highest of the processors' sensors, which count in thousandths of a degree.
pub(super) fn temperature_c(root: &Root) -> Option<f64> {
    let mut found: Vec<i64> = Vec::new();
    for name in root.names("sys/class/hwmon") {
        let folder = format!("sys/class/hwmon/{name}");
        let driver = root.text(&format!("{folder}/name"));
        if driver.is_some_and(|driver| SENSORS.contains(&driver.as_str())) {
            let files = root.names(&folder).into_iter();
            let inputs = files.filter(|file| file.starts_with("temp") && file.ends_with("_input"));
            found.extend(inputs.filter_map(|file| root.number::<i64>(&format!("{folder}/{file}"))));
        }
    }
    if found.is_empty() {
        for name in root.names("sys/class/thermal") {
            let folder = format!("sys/class/thermal/{name}");
            let kind = root.text(&format!("{folder}/type"));
            if kind.is_some_and(|kind| ZONES.contains(&kind.as_str())) {
                found.extend(root.number::<i64>(&format!("{folder}/temp")));
            }
        }
    }
    found.into_iter().max().map(|highest| highest as f64 / 1e3)
}

/// The long-term limit of each package, in the order of packages.
fn power_limits_watts(root: &Root) -> Option<Vec<f64>> {
    const FOLDER: &str = "sys/class/powercap";
    let domains = root.names(FOLDER).into_iter();
    let packages = domains.filter(|name| {
        let kind = root.text(&format!("{FOLDER}/{name}/name"));
        name.matches(':').count() == 1 && kind.is_some_and(|kind| kind.starts_with("package"))
    });
    let limits = packages.filter_map(|name| {
        let constraint = |file: &str| format!("{FOLDER}/{name}/constraint_0_{file}");
        let kind = root.text(&constraint("name"))?;
        let microwatts: u64 = root.number(&constraint("power_limit_uw"))?;
        (kind == "long_term").then_some(microwatts as f64 / 1e6)
    });
    let limits: Vec<f64> = limits.collect();
    (!limits.is_empty()).then_some(limits)
}

/// How often cores and packages have been throttled since the machine was started. Each core of a
/// package has the package's count, so the largest is taken.
pub(super) fn throttle_events(root: &Root, allowed: Option<&[u32]>) -> Option<u64> {
    let cpus = root.cpus(allowed);
    let count = |file: &str| root.numbers_of_cpus(&cpus, &format!("thermal_throttle/{file}"));
    let (cores, packages) = (
        count("core_throttle_count"),
        count("package_throttle_count"),
    );
    let told = !cores.is_empty() || !packages.is_empty();
    told.then(|| cores.iter().sum::<u64>() + packages.into_iter().max().unwrap_or(0))
}
