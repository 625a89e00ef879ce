//! The state of an NVIDIA GPU, from NVML: clocks, limits, throttling, who else uses it.
//!
//! An idle GPU lowers its clocks, so what it does while it works is only seen between generations:
//! it's looked at before rounds as well.
//!
//! Source: NVML API reference, «Device Queries».

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{
    Clock, PerformancePolicy, TemperatureSensor, TemperatureThreshold,
};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use serde::{Deserialize, Serialize};

use crate::machine::nvml::{load_nvml, visible_devices};

/// Looks are at least this far apart.
const APART: Duration = Duration::from_secs(1);

/// Reasons for lower clocks, as results name them.
const REASONS: &[(ThrottleReasons, &str)] = &[
    (ThrottleReasons::GPU_IDLE, "idle"),
    (
        ThrottleReasons::APPLICATIONS_CLOCKS_SETTING,
        "application-clocks",
    ),
    (ThrottleReasons::SW_POWER_CAP, "power-cap"),
    (ThrottleReasons::HW_SLOWDOWN, "hardware-slowdown"),
    (ThrottleReasons::SYNC_BOOST, "sync-boost"),
    (ThrottleReasons::SW_THERMAL_SLOWDOWN, "software-thermal"),
    (ThrottleReasons::HW_THERMAL_SLOWDOWN, "hardware-thermal"),
    (
        ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN,
        "hardware-power-brake",
    ),
    (ThrottleReasons::DISPLAY_CLOCK_SETTING, "display-clocks"),
];

/// The reasons among them that make times worse than the GPU's own.
pub const SLOWDOWNS: &[&str] = &[
    "power-cap",
    "hardware-slowdown",
    "software-thermal",
    "hardware-thermal",
    "hardware-power-brake",
];

/// The state of a GPU. What NVML doesn't tell is `None`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gpu {
    /// The version of its firmware.
    pub vbios_version: Option<String>,
    /// Whether the driver stays loaded while nobody uses the GPU.
    pub persistence_mode: Option<bool>,
    /// Whether it's divided into instances.
    pub mig_mode: Option<bool>,
    /// Who may use it at once: `default`, `exclusive-process`, `prohibited`.
    pub compute_mode: Option<String>,
    /// Whether clocks rise by themselves, on GPUs that have a setting for it.
    pub auto_boost: Option<bool>,
    /// Its link to the host.
    pub pcie: PcieLink,
    /// Its limits of power.
    pub power: PowerLimits,
    /// The highest clocks that it has.
    pub highest_clocks: Clocks,
    /// The clocks that applications shall run with.
    pub application_clocks: Clocks,
    /// The temperature at which it lowers its clocks, in °C.
    pub slowdown_temperature_c: Option<u32>,
    /// The reasons for lower clocks that it can tell.
    pub supported_throttle_reasons: Option<Vec<String>>,
    /// Processes of others that computed on it before the measurement.
    pub other_processes: Option<usize>,
    /// Its state before the measurement.
    pub before: GpuState,
    /// Its state after it.
    pub after: GpuState,
    /// Its states before rounds, of which each figure is the worst; `None` without a look.
    pub between_rounds: Option<GpuState>,
    /// For how long it was throttled while this ran.
    pub throttled_seconds: Throttled,
}

/// The link to the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PcieLink {
    /// PCIe's generation now. An idle GPU lowers it.
    pub generation: Option<u32>,
    /// The highest that GPU and host have.
    pub highest_generation: Option<u32>,
    /// Lanes now.
    pub width: Option<u32>,
    /// The most that GPU and host have.
    pub highest_width: Option<u32>,
}

/// Limits of power, in watts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PowerLimits {
    /// The limit that holds, whoever set it.
    pub enforced_watts: Option<f64>,
    /// The limit that was set.
    pub set_watts: Option<f64>,
    /// The limit that it starts with.
    pub default_watts: Option<f64>,
    /// The lowest that can be set.
    pub lowest_watts: Option<f64>,
    /// The highest that can be set.
    pub highest_watts: Option<f64>,
}

/// Clocks, in MHz.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Clocks {
    /// Of graphics.
    pub graphics_mhz: Option<u32>,
    /// Of the multiprocessors.
    pub sm_mhz: Option<u32>,
    /// Of memory.
    pub memory_mhz: Option<u32>,
}

/// What a GPU is doing at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GpuState {
    /// Its clocks.
    pub clocks: Clocks,
    /// The power that it draws.
    pub power_watts: Option<f64>,
    /// Its temperature, in °C.
    pub temperature_c: Option<u32>,
    /// Its state of performance: 0 is the highest.
    pub performance_state: Option<u32>,
    /// How busy it is, in percent of the last moments.
    pub utilization_pct: Option<u32>,
    /// How busy its memory is.
    pub memory_utilization_pct: Option<u32>,
    /// Why its clocks are no higher.
    pub throttle_reasons: Option<Vec<String>>,
}

/// For how long a GPU was throttled, by reason, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Throttled {
    /// Its power was at the limit.
    pub power: Option<f64>,
    /// It was too hot.
    pub thermal: Option<f64>,
    /// Another GPU of its group was slower.
    pub sync_boost: Option<f64>,
    /// The board's limit was reached.
    pub board_limit: Option<f64>,
    /// Its voltage was at the limit for its reliability.
    pub reliability: Option<f64>,
}

const POLICIES: [PerformancePolicy; 5] = [
    PerformancePolicy::Power,
    PerformancePolicy::Thermal,
    PerformancePolicy::SyncBoost,
    PerformancePolicy::BoardLimit,
    PerformancePolicy::Reliability,
];

/// Watches one GPU.
pub struct GpuWatch {
    nvml: Nvml,
    index: u32,
    found: Gpu,
    /// The time of each policy of [`POLICIES`], in nanoseconds.
    violations: [Option<u64>; 5],
    looked: RefCell<(Instant, Option<GpuState>)>,
}

impl GpuWatch {
    /// A watch of the CUDA device number `device`; `None` without NVML, or without such a device.
    /// Make it before this program computes there: whoever does so now is somebody else.
    pub fn open(device: u32) -> Option<Self> {
        let nvml = load_nvml()?;
        let index = *visible_devices(&nvml).get(usize::try_from(device).ok()?)?;
        let other_processes = others(&nvml.device_by_index(index).ok()?);
        Some(Self {
            nvml,
            index,
            found: Gpu {
                other_processes,
                ..Gpu::default()
            },
            violations: [None; 5],
            looked: RefCell::new((Instant::now(), None)),
        })
    }

    /// Reads what's set, and the state before a measurement.
    pub(super) fn start(mut self) -> Self {
        let other_processes = self.found.other_processes;
        if let Ok(device) = self.nvml.device_by_index(self.index) {
            self.found = Gpu {
                other_processes,
                before: state(&device),
                ..settings(&device)
            };
            self.violations = violations(&device);
        }
        self
    }

    /// Looks at the GPU, if the last look is long enough ago.
    pub(super) fn look(&self) {
        let mut looked = self.looked.borrow_mut();
        if looked.0.elapsed() < APART {
            return;
        }
        if let Ok(device) = self.nvml.device_by_index(self.index) {
            let now = state(&device);
            let worst = match looked.1.take() {
                Some(earlier) => earlier.worst(now),
                None => now,
            };
            *looked = (Instant::now(), Some(worst));
        }
    }

    /// Everything that was found.
    pub(super) fn finish(self) -> Gpu {
        let mut found = self.found;
        found.between_rounds = self.looked.into_inner().1;
        if let Ok(device) = self.nvml.device_by_index(self.index) {
            found.after = state(&device);
            found.throttled_seconds = Throttled::since(self.violations, violations(&device));
        }
        found
    }
}

impl Throttled {
    fn since(before: [Option<u64>; 5], after: [Option<u64>; 5]) -> Self {
        let grown = |index: usize| {
            let (before, after) = (before[index]?, after[index]?);
            Some(after.saturating_sub(before) as f64 / 1e9)
        };
        let [power, thermal, sync_boost, board_limit, reliability] = [0, 1, 2, 3, 4].map(grown);
        Self {
            power,
            thermal,
            sync_boost,
            board_limit,
            reliability,
        }
    }
}

impl GpuState {
    /// Of each figure the one that makes a measurement worse: the lowest clocks, the highest
    /// temperature, and all reasons.
    fn worst(self, other: Self) -> Self {
        let lowest = |a: Option<u32>, b: Option<u32>| a.into_iter().chain(b).min();
        let reasons = match (self.throttle_reasons, other.throttle_reasons) {
            (None, None) => None,
            (own, others) => {
                let all = own.into_iter().chain(others).flatten();
                Some(all.collect::<BTreeSet<_>>().into_iter().collect())
            }
        };
        Self {
            clocks: Clocks {
                graphics_mhz: lowest(self.clocks.graphics_mhz, other.clocks.graphics_mhz),
                sm_mhz: lowest(self.clocks.sm_mhz, other.clocks.sm_mhz),
                memory_mhz: lowest(self.clocks.memory_mhz, other.clocks.memory_mhz),
            },
            power_watts: [self.power_watts, other.power_watts]
                .into_iter()
                .flatten()
                .reduce(f64::max),
            temperature_c: self.temperature_c.max(other.temperature_c),
            performance_state: self.performance_state.max(other.performance_state),
            utilization_pct: self.utilization_pct.max(other.utilization_pct),
            memory_utilization_pct: self
                .memory_utilization_pct
                .max(other.memory_utilization_pct),
            throttle_reasons: reasons,
        }
    }
}

/// What's set on `device`.
fn settings(device: &Device) -> Gpu {
    let limits = device.power_management_limit_constraints().ok();
    Gpu {
        vbios_version: device.vbios_version().ok(),
        persistence_mode: persistence_mode(device),
        mig_mode: device.mig_mode().ok().map(|mode| mode.current == 1),
        compute_mode: device.compute_mode().ok().map(compute_mode),
        auto_boost: device
            .auto_boosted_clocks_enabled()
            .ok()
            .map(|found| found.is_enabled),
        pcie: PcieLink {
            generation: device.current_pcie_link_gen().ok(),
            highest_generation: device.max_pcie_link_gen().ok(),
            width: device.current_pcie_link_width().ok(),
            highest_width: device.max_pcie_link_width().ok(),
        },
        power: PowerLimits {
            enforced_watts: watts(device.enforced_power_limit()),
            set_watts: watts(device.power_management_limit()),
            default_watts: watts(device.power_management_limit_default()),
            lowest_watts: limits.as_ref().map(|found| milli(found.min_limit)),
            highest_watts: limits.map(|found| milli(found.max_limit)),
        },
        highest_clocks: clocks(|clock| device.max_clock_info(clock)),
        application_clocks: clocks(|clock| device.applications_clock(clock)),
        slowdown_temperature_c: device
            .temperature_threshold(TemperatureThreshold::Slowdown)
            .ok(),
        supported_throttle_reasons: device.supported_throttle_reasons().ok().map(names),
        ..Gpu::default()
    }
}

/// What `device` is doing.
fn state(device: &Device) -> GpuState {
    let busy = device.utilization_rates().ok();
    GpuState {
        clocks: clocks(|clock| device.clock_info(clock)),
        power_watts: watts(device.power_usage()),
        temperature_c: device.temperature(TemperatureSensor::Gpu).ok(),
        performance_state: device.performance_state().ok().map(|state| state.as_c()),
        utilization_pct: busy.as_ref().map(|busy| busy.gpu),
        memory_utilization_pct: busy.map(|busy| busy.memory),
        throttle_reasons: device.current_throttle_reasons().ok().map(names),
    }
}

fn violations(device: &Device) -> [Option<u64>; 5] {
    POLICIES.map(|policy| Some(device.violation_status(policy).ok()?.violation_time))
}

/// How many processes compute on `device`, other than this one.
fn others(device: &Device) -> Option<usize> {
    let processes = device.running_compute_processes().ok()?;
    let own = std::process::id();
    let others: BTreeSet<u32> = processes.iter().map(|one| one.pid).collect();
    Some(others.into_iter().filter(|pid| *pid != own).count())
}

#[cfg(target_os = "linux")]
fn persistence_mode(device: &Device) -> Option<bool> {
    device.is_in_persistent_mode().ok()
}

#[cfg(not(target_os = "linux"))]
fn persistence_mode(_: &Device) -> Option<bool> {
    None
}

fn compute_mode(mode: nvml_wrapper::enum_wrappers::device::ComputeMode) -> String {
    use nvml_wrapper::enum_wrappers::device::ComputeMode;
    let name = match mode {
        ComputeMode::Default => "default",
        ComputeMode::ExclusiveThread => "exclusive-thread",
        ComputeMode::Prohibited => "prohibited",
        ComputeMode::ExclusiveProcess => "exclusive-process",
    };
    name.to_owned()
}

fn clocks(read: impl Fn(Clock) -> Result<u32, NvmlError>) -> Clocks {
    Clocks {
        graphics_mhz: read(Clock::Graphics).ok(),
        sm_mhz: read(Clock::SM).ok(),
        memory_mhz: read(Clock::Memory).ok(),
    }
}

fn watts(read: Result<u32, NvmlError>) -> Option<f64> {
    read.ok().map(milli)
}

fn milli(thousandths: u32) -> f64 {
    f64::from(thousandths) / 1e3
}

fn names(reasons: ThrottleReasons) -> Vec<String> {
    let all = REASONS.iter();
    let found = all.filter(|(reason, _)| reasons.contains(*reason));
    found.map(|(_, name)| (*name).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_one_name_and_bad_ones_are_among_them() {
        assert_eq!(names(ThrottleReasons::NONE), [""; 0]);
        let both = ThrottleReasons::GPU_IDLE | ThrottleReasons::SW_POWER_CAP;
        assert_eq!(names(both), ["idle", "power-cap"]);
        assert_eq!(names(ThrottleReasons::all()).len(), REASONS.len());
        for bad in SLOWDOWNS {
            assert!(REASONS.iter().any(|(_, name)| name == bad), "{bad}");
        }
    }

    #[test]
    fn the_worst_of_two_states_has_the_lowest_clocks_and_all_reasons() {
        let at = |mhz, celsius, reasons: &[&str]| GpuState {
            clocks: Clocks {
                sm_mhz: Some(mhz),
                ..Clocks::default()
            },
            temperature_c: Some(celsius),
            throttle_reasons: Some(reasons.iter().map(|&name| name.to_owned()).collect()),
            ..GpuState::default()
        };
        let worst = at(1980, 60, &["power-cap"]).worst(at(1200, 55, &["idle", "power-cap"]));
        assert_eq!(worst, at(1200, 60, &["idle", "power-cap"]));
        let untold = GpuState::default().worst(GpuState::default());
        assert_eq!(untold, GpuState::default());
    }

    #[test]
    fn throttling_is_the_growth_of_its_counters() {
        let before = [Some(5_000_000_000), None, Some(7), Some(0), None];
        let after = [Some(6_500_000_000), Some(9), Some(7), Some(0), None];
        let found = Throttled::since(before, after);
        assert_eq!((found.power, found.thermal), (Some(1.5), None));
        assert_eq!((found.sync_boost, found.reliability), (Some(0.0), None));
    }

    #[test]
    fn a_device_that_does_not_exist_is_not_watched() {
        assert!(GpuWatch::open(u32::MAX).is_none());
    }
}
