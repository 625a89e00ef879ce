//! The memory that this process holds on an NVIDIA GPU, read from NVML.
//!
//! NVML comes with the driver and is loaded at run time. Without it there's no [`GpuProbe`], which
//! isn't an error.
//!
//! NVML lists the processes on a device with the memory of each. In a container the list may be
//! empty, or have other process ids. The fallback is the growth of the whole device's used memory,
//! which is right as long as no other process uses the device. The result names the method.
//!
//! Source: NVML API reference, `nvmlDeviceGetComputeRunningProcesses`, `nvmlDeviceGetMemoryInfo`.

use nvml_wrapper::{Device, Nvml, enums::device::UsedGpuMemory, error::NvmlError};
use serde::{Deserialize, Serialize};

use crate::machine::nvml::{load_nvml, visible_devices};

/// How a process's memory on the GPU was determined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GpuMemoryMethod {
    /// NVML's figure for this process, its CUDA context included.
    #[serde(rename = "nvml-process")]
    Process,
    /// The device's used memory, minus the memory that was used when the probe was made.
    #[serde(rename = "nvml-device-difference")]
    DeviceDifference,
}

/// One reading of this process' memory on the GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuReading {
    /// `None` while NVML hasn't listed this process.
    process_bytes: Option<u64>,
    device_difference_bytes: u64,
}

impl GpuReading {
    /// The memory in bytes, from the better [`method`](Self::method) available.
    pub fn bytes(self) -> u64 {
        self.process_bytes.unwrap_or(self.device_difference_bytes)
    }

    /// How [`bytes`](Self::bytes) was determined.
    pub fn method(self) -> GpuMemoryMethod {
        match self.process_bytes {
            Some(_) => GpuMemoryMethod::Process,
            None => GpuMemoryMethod::DeviceDifference,
        }
    }

    /// The maximum of both readings, figure by figure.
    pub(super) fn max(self, other: Self) -> Self {
        Self {
            process_bytes: self.process_bytes.max(other.process_bytes),
            device_difference_bytes: self
                .device_difference_bytes
                .max(other.device_difference_bytes),
        }
    }
}

/// Reads this process' memory on one GPU.
#[derive(Debug)]
pub struct GpuProbe {
    nvml: Nvml,
    index: u32,
    history: History,
}

impl GpuProbe {
    /// A probe of the CUDA device number `device`; ONNX Runtime uses the same numbers.
    ///
    /// Make it before the session: if process ids are hidden, the memory used now is subtracted
    /// later. `None` without NVML, without such a device, or if it doesn't report its memory.
    pub fn new(device: u32) -> Option<Self> {
        let nvml = load_nvml()?;
        let index = *visible_devices(&nvml).get(usize::try_from(device).ok()?)?;
        let used_at_start = nvml.device_by_index(index).ok()?.memory_info().ok()?.used;
        Some(Self {
            nvml,
            index,
            history: History {
                used_at_start,
                listed_before: false,
            },
        })
    }

    /// The memory now; `None` if the device has stopped answering.
    pub fn read(&mut self) -> Option<GpuReading> {
        let device = self.nvml.device_by_index(self.index).ok()?;
        let used = device.memory_info().ok()?.used;
        let listed = listed_bytes(&device, std::process::id()).ok().flatten();
        Some(self.history.reading(listed, used))
    }
}

/// The bytes that NVML lists for process `pid`. `None` if it doesn't list the process, or lists it
/// without a size, as on Windows.
fn listed_bytes(device: &Device, pid: u32) -> Result<Option<u64>, NvmlError> {
    let mut sum = None;
    for process in device.running_compute_processes()? {
        // With MIG a process is listed once for each instance.
        if process.pid == pid
            && let UsedGpuMemory::Used(bytes) = process.used_gpu_memory
        {
            sum = Some(sum.unwrap_or(0) + bytes);
        }
    }
    Ok(sum)
}

/// State kept between readings.
#[derive(Debug)]
struct History {
    used_at_start: u64,
    listed_before: bool,
}

impl History {
    /// A process isn't listed before its first CUDA call, or if its id is hidden. If it was listed
    /// earlier, its id isn't hidden, so no longer being listed means that it has freed everything.
    fn reading(&mut self, listed: Option<u64>, used: u64) -> GpuReading {
        self.listed_before |= listed.is_some();
        GpuReading {
            process_bytes: listed.or(self.listed_before.then_some(0)),
            device_difference_bytes: used.saturating_sub(self.used_at_start),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> History {
        History {
            used_at_start: 1_000,
            listed_before: false,
        }
    }

    #[test]
    fn a_listed_process_has_its_own_figure_whatever_else_uses_the_device() {
        let reading = history().reading(Some(300), 9_000);
        assert_eq!(
            (reading.bytes(), reading.method()),
            (300, GpuMemoryMethod::Process)
        );
    }

    #[test]
    fn a_hidden_process_has_the_growth_of_the_device() {
        let mut history = history();
        let reading = history.reading(None, 1_700);
        assert_eq!(
            (reading.bytes(), reading.method()),
            (700, GpuMemoryMethod::DeviceDifference)
        );
        assert_eq!(history.reading(None, 400).bytes(), 0);
    }

    #[test]
    fn a_process_that_was_listed_and_is_not_any_more_holds_nothing() {
        let mut history = history();
        history.reading(Some(300), 1_300);
        let reading = history.reading(None, 5_000);
        assert_eq!(
            (reading.bytes(), reading.method()),
            (0, GpuMemoryMethod::Process)
        );
    }

    #[test]
    fn the_peak_of_readings_is_by_process_once_one_of_them_is() {
        let mut history = history();
        let before = history.reading(None, 9_000);
        let after = history.reading(Some(300), 1_300);
        let peak = before.max(after);
        assert_eq!(
            (peak.bytes(), peak.method()),
            (300, GpuMemoryMethod::Process)
        );
    }

    #[test]
    fn the_method_is_named_in_json() {
        let names = [GpuMemoryMethod::Process, GpuMemoryMethod::DeviceDifference]
            .map(|method| serde_json::to_value(method).unwrap());
        assert_eq!(names, ["nvml-process", "nvml-device-difference"]);
    }

    #[test]
    fn a_device_that_does_not_exist_has_no_probe() {
        assert!(GpuProbe::new(u32::MAX).is_none());
    }
}
