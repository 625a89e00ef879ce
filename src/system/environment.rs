//! The state of the machine that times depend on, before a measurement and over it.
//!
//! ```text
//! processor       what the processor is, and who else shares its cores
//! frequency       its clock: who chooses it, what limits it, whether it was throttled
//! memory          huge pages, NUMA
//! control_group   the group's quota of processor time
//! gpu             clocks, limits and throttling of an NVIDIA GPU
//! ```
//!
//! What the system doesn't tell is `None`, and null in a result: on most virtual machines that's
//! nearly everything. Files are read below a root folder, which tests make of files of other
//! machines.

mod control_group;
mod frequency;
mod gpu;
mod memory;
mod processor;
mod root;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::machine::cores::allowed_list;
use crate::machine::pressure::{Pressure, PressureTotals};
use root::Root;

pub use control_group::{ControlGroup, CpuQuota};
pub use frequency::{Frequency, Khz};
pub use gpu::{Clocks, Gpu, GpuState, GpuWatch, PcieLink, PowerLimits, SLOWDOWNS, Throttled};
pub use memory::MemorySettings;
pub use processor::Processor;

/// A value before and after a measurement.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BeforeAfter<T> {
    /// Before.
    pub before: Option<T>,
    /// After.
    pub after: Option<T>,
}

/// The result's `run_info.environment`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Environment {
    /// The processor.
    pub processor: Processor,
    /// Its clock.
    pub frequency: Frequency,
    /// Memory.
    pub memory: MemorySettings,
    /// The control group of this process.
    pub control_group: ControlGroup,
    /// For how long tasks waited while this ran. The whole machine's, this program included.
    pub pressure: Option<Pressure>,
    /// The GPU that was measured; `None` on a processor, or if NVML doesn't answer.
    pub gpu: Option<Gpu>,
}

/// Reads the environment before a measurement, and what has changed after it.
pub struct EnvironmentWatch {
    root: Root,
    started: Instant,
    found: Environment,
    throttle_events: Option<u64>,
    bandwidth: Option<control_group::Bandwidth>,
    pressure: Option<PressureTotals>,
    gpu: Option<GpuWatch>,
}

impl EnvironmentWatch {
    /// Starts to watch the machine whose files are below `root`, and its GPU if that's measured.
    pub fn start(root: &Path, gpu: Option<GpuWatch>) -> Self {
        let allowed = allowed_list(root, "Cpus_allowed_list:");
        let root = Root(root.to_owned());
        let found = Environment {
            processor: processor::read(&root, allowed.as_deref()),
            frequency: frequency::read(&root, allowed.as_deref()),
            memory: memory::read(&root, allowed.as_deref()),
            control_group: control_group::read(&root),
            ..Environment::default()
        };
        Self {
            started: Instant::now(),
            throttle_events: frequency::throttle_events(&root, allowed.as_deref()),
            bandwidth: control_group::bandwidth(&root),
            pressure: PressureTotals::read(&root.0),
            gpu: gpu.map(GpuWatch::start),
            found,
            root,
        }
    }

    /// Looks at what is only seen while it works. It's called between generations.
    pub fn look(&self) {
        if let Some(gpu) = &self.gpu {
            gpu.look();
        }
    }

    /// The environment, with what changed since the start.
    pub fn finish(self) -> Environment {
        let (root, mut found) = (&self.root, self.found);
        let allowed = allowed_list(&root.0, "Cpus_allowed_list:");
        let allowed = allowed.as_deref();
        found.frequency.khz.after = frequency::khz(root, allowed);
        found.frequency.temperature_c.after = frequency::temperature_c(root);
        let events = self
            .throttle_events
            .zip(frequency::throttle_events(root, allowed));
        found.frequency.throttle_events =
            events.map(|(before, after)| after.saturating_sub(before));
        let bandwidth = self.bandwidth.zip(control_group::bandwidth(root));
        if let Some((before, after)) = bandwidth {
            found.control_group.set_throttled(&before, &after);
        }
        let pressure = self.pressure.zip(PressureTotals::read(&root.0));
        found.pressure =
            pressure.map(|(before, after)| after.since(&before, self.started.elapsed()));
        found.gpu = self.gpu.map(GpuWatch::finish);
        found
    }
}
