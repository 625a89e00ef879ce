//! NVIDIA's management library (NVML), and which of its devices CUDA lets this process see.
//!
//! CUDA and NVML number devices differently: `CUDA_VISIBLE_DEVICES` hides and reorders them for
//! CUDA only, and this module follows it. CUDA's default order, fastest first unless
//! `CUDA_DEVICE_ORDER=PCI_BUS_ID`, can differ from NVML's on machines with different GPUs; that
//! isn't followed.

use std::env;

use nvml_wrapper::Nvml;

/// Loads NVML; `None` on a machine without NVIDIA's driver.
pub(crate) fn load_nvml() -> Option<Nvml> {
    Nvml::init().ok()
}

/// A GPU that CUDA lets this process see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Its number for CUDA in this process.
    pub number: u32,
    /// Its name for everybody, `GPU-…`, which `CUDA_VISIBLE_DEVICES` takes.
    pub uuid: String,
}

/// The GPUs that CUDA lets this process see, in CUDA's order.
pub fn visible_gpus() -> Vec<Gpu> {
    let Some(nvml) = load_nvml() else {
        return Vec::new();
    };
    let visible = visible_devices(&nvml).into_iter().enumerate();
    let gpu = |(number, index): (usize, u32)| {
        let uuid = nvml.device_by_index(index).ok()?.uuid().ok()?;
        let number = u32::try_from(number).ok()?;
        Some(Gpu { number, uuid })
    };
    visible.filter_map(gpu).collect()
}

/// NVML's index for each device that CUDA lets this process see, in CUDA's order.
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

/// Resolves `visible`, the value of `CUDA_VISIBLE_DEVICES`: a list of indices and (possibly
/// shortened) UUIDs. As in CUDA, an unknown entry ends the list; so does a `MIG-` entry here, since
/// NVML counts parts of a device separately.
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
    fn visible_devices_follow_cudas_rules() {
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
