//! NVIDIA's NVML, and which of its devices CUDA shows this process.
//!
//! CUDA and NVML don't count devices alike: `CUDA_VISIBLE_DEVICES` hides and reorders them for CUDA alone. It's
//! followed here. CUDA's own order, fastest first unless `CUDA_DEVICE_ORDER=PCI_BUS_ID`, differs from NVML's only
//! where a machine has GPUs of different kinds.

use std::env;

use nvml_wrapper::Nvml;

/// NVML, or `None` on a machine without the driver.
pub(crate) fn load_nvml() -> Option<Nvml> {
    Nvml::init().ok()
}

/// NVML's indices of the devices that CUDA shows this process; CUDA's device `n` is at place `n`.
pub(crate) fn visible_devices(nvml: &Nvml) -> Vec<u32> {
    let uuids: Vec<String> = (0..nvml.device_count().unwrap_or(0))
        .map(|index| {
            nvml.device_by_index(index)
                .and_then(|device| device.uuid())
                .unwrap_or_default()
        })
        .collect();
    let visible = env::var("CUDA_VISIBLE_DEVICES").ok();
    visible_indices(visible.as_deref(), &uuids)
}

/// `visible` is a list of indices and of UUIDs, which may be shortened; CUDA ignores everything from the first entry on
/// that it doesn't know. A `MIG-` entry, a part of a device, is such a one here: NVML counts those apart.
fn visible_indices(visible: Option<&str>, uuids: &[String]) -> Vec<u32> {
    let all = 0..uuids.len() as u32;
    let Some(visible) = visible else {
        return all.collect();
    };
    visible
        .split(',')
        .map(str::trim)
        .map_while(|entry| match entry.parse::<u32>() {
            Ok(index) => all.contains(&index).then_some(index),
            Err(_) if entry.starts_with("GPU-") => all
                .clone()
                .find(|&index| uuids[index as usize].starts_with(entry)),
            Err(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visible_devices_are_counted_as_cuda_does() {
        let uuids = ["GPU-aa11", "GPU-bb22", "GPU-cc33"].map(String::from);
        let indices = |visible| visible_indices(visible, &uuids);
        assert_eq!(indices(None), [0, 1, 2]);
        assert_eq!(indices(Some("2,0")), [2, 0]);
        assert_eq!(indices(Some("GPU-bb, 0")), [1, 0]);
        assert_eq!(indices(Some("1,7,0")), [1]);
        assert_eq!(indices(Some("-1")), [0_u32; 0]);
        assert_eq!(indices(Some("")), [0_u32; 0]);
    }
}
