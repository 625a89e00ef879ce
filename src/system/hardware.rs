//! The result's `run_info.hardware`: the accelerators.
//!
//! Only NVIDIA GPUs are described, by NVML, which comes with their driver.

use nvml_wrapper::{cuda_driver_version_major, cuda_driver_version_minor};
use serde::{Deserialize, Serialize};

use crate::machine::nvml::{load_nvml, visible_devices};

/// The accelerators that CUDA lets this process see. A value is `None` if it doesn't exist or isn't
/// reported.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    /// Number of accelerators that `CUDA_VISIBLE_DEVICES` leaves visible.
    pub num_accelerators: usize,
    /// Name of the accelerator in use.
    pub accelerator_type: Option<String>,
    /// The newest CUDA version that the driver supports, such as `12.8`; not the version of the
    /// CUDA libraries in use.
    pub cuda_version: Option<String>,
    /// The driver's version.
    pub driver_version: Option<String>,
    /// Total memory of the accelerator in use, in MiB.
    pub accelerator_memory_mb: Option<u64>,
}

impl Hardware {
    /// Asks NVML how many accelerators there are, and for the name and memory of CUDA device
    /// `device`.
    pub fn collect(device: u32) -> Self {
        let Some(nvml) = load_nvml() else {
            return Self::default();
        };
        let visible = visible_devices(&nvml);
        let in_use = visible
            .get(device as usize)
            .and_then(|&index| nvml.device_by_index(index).ok());
        Self {
            num_accelerators: visible.len(),
            accelerator_type: in_use.as_ref().and_then(|device| device.name().ok()),
            cuda_version: nvml.sys_cuda_driver_version().ok().map(cuda_version),
            driver_version: nvml.sys_driver_version().ok(),
            accelerator_memory_mb: in_use
                .and_then(|device| device.memory_info().ok())
                .map(|memory| memory.total >> 20),
        }
    }
}

/// Converts NVML's number: `12080` is version 12.8.
fn cuda_version(version: i32) -> String {
    let major = cuda_driver_version_major(version);
    let minor = cuda_driver_version_minor(version);
    format!("{major}.{minor}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_does_not_exist_has_no_name_and_no_memory() {
        let hardware = Hardware::collect(u32::MAX);
        assert_eq!(hardware.accelerator_type, None);
        assert_eq!(hardware.accelerator_memory_mb, None);
    }

    #[test]
    fn cuda_versions_are_written_as_major_and_minor() {
        assert_eq!(cuda_version(12_080), "12.8");
        assert_eq!(cuda_version(13_000), "13.0");
    }

    #[test]
    fn it_survives_json() {
        let hardware = Hardware::collect(0);
        let json = serde_json::to_string(&hardware).unwrap();
        assert_eq!(serde_json::from_str::<Hardware>(&json).unwrap(), hardware);
    }
}
