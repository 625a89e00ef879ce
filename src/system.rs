//! Description of the machine: operating system, processor, memory, accelerators, and the state
//! that times depend on.

pub mod environment;
mod hardware;

use crate::machine::{cgroup, physical_cores, usable_cores};
use serde::{Deserialize, Serialize};
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

pub use environment::{Environment, EnvironmentWatch};
pub use hardware::Hardware;

/// The result's `meta_info.system_info`. The first five keys have the names of PEFT's benchmark.
///
/// What the system doesn't report is `None`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SystemInfo {
    /// The operating system: `linux`, `macos`, `windows`.
    pub system: String,
    /// The kernel's version.
    pub release: Option<String>,
    /// The operating system's name and version.
    pub version: Option<String>,
    /// The processor architecture that this program was built for: `x86_64`, `aarch64`.
    pub machine: String,
    /// The processor's model name.
    pub processor: Option<String>,
    /// Physical cores that this process may use; see [`physical_cores`].
    pub physical_cores: usize,
    /// All logical processors of the machine, usable or not.
    pub logical_cores: usize,
    /// Logical processors that this process may use; see [`usable_cores`].
    pub usable_cores: usize,
    /// The machine's RAM in bytes.
    pub total_ram_bytes: Option<u64>,
    /// Memory limit of this process' control group (container or service), in bytes; `None` if it's
    /// not below the machine's RAM.
    pub cgroup_memory_limit_bytes: Option<u64>,
    /// Load averages over 1, 5 and 15 minutes. A value well above 0 before a measurement means that
    /// other processes are busy.
    pub load_average: Option<[f64; 3]>,
}

impl SystemInfo {
    /// Queries the operating system now.
    pub fn collect() -> Self {
        let system = System::new_with_specifics(
            RefreshKind::nothing()
                .with_cpu(CpuRefreshKind::nothing())
                .with_memory(MemoryRefreshKind::nothing().with_ram()),
        )
        .ok();
        let cpus = system.as_ref().map_or(&[][..], System::cpus);
        let total_ram_bytes = system.as_ref().map(System::total_memory);
        Self {
            system: std::env::consts::OS.to_string(),
            release: System::kernel_version().ok(),
            version: System::long_os_version().ok(),
            machine: std::env::consts::ARCH.to_string(),
            processor: cpus
                .first()
                .map(|cpu| cpu.brand().trim().to_string())
                .filter(|brand| !brand.is_empty()),
            physical_cores: physical_cores(),
            logical_cores: cpus.len().max(usable_cores()),
            usable_cores: usable_cores(),
            total_ram_bytes,
            cgroup_memory_limit_bytes: cgroup::memory_limit_bytes()
                .filter(|limit| total_ram_bytes.is_none_or(|total| *limit < total)),
            load_average: load_average(),
        }
    }
}

/// Windows has no load average, whatever numbers are returned for it.
fn load_average() -> Option<[f64; 3]> {
    if cfg!(windows) {
        return None;
    }
    let load = System::load_average().ok()?;
    Some([load.one, load.five, load.fifteen])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_cores_and_memory() {
        let info = SystemInfo::collect();
        assert_eq!(info.system, std::env::consts::OS);
        assert!((1..=info.usable_cores).contains(&info.physical_cores));
        assert!(info.usable_cores <= info.logical_cores);
        let total = info.total_ram_bytes.unwrap();
        assert!(total > 1 << 20);
        assert!(
            info.cgroup_memory_limit_bytes
                .is_none_or(|limit| limit < total)
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn kernel_and_memory_agree_with_proc_on_linux() {
        let info = SystemInfo::collect();
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert_eq!(info.release.as_deref(), Some(kernel.trim()));
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
        let total: u64 = meminfo.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert_eq!(info.total_ram_bytes, Some(total * 1024));
        assert!(info.load_average.unwrap().iter().all(|load| *load >= 0.0));
    }

    #[test]
    fn it_survives_json() {
        let info = SystemInfo::collect();
        let json = serde_json::to_string(&info).unwrap();
        for key in ["system", "release", "version", "machine", "processor"] {
            assert!(json.contains(&format!("\"{key}\":")), "{json}");
        }
        assert_eq!(serde_json::from_str::<SystemInfo>(&json).unwrap(), info);
    }
}
