//! Lanes: disjoint sets of cores, each with a GPU of its own if jobs need one. One job is measured
//! at a time in each.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use thiserror::Error;

use crate::machine::allowed_cores;
use crate::machine::cores::parse_list;
use crate::machine::nvml::{Gpu, visible_gpus};

/// Cores that HyperQueue gives to a task, and pins nothing to.
const HQ_CPUS: &str = "HQ_CPUS";

/// Where the kernel tells which hardware threads share a core, and which cores a memory node has.
const CPUS: &str = "/sys/devices/system/cpu";
const NODES: &str = "/sys/devices/system/node";

/// Lanes that there can't be.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum LaneError {
    #[error("this system doesn't tell which cores the program may use, and `sweep run` needs that")]
    Untold,
    #[error(
        "`{0}` is no set of cores: expected numbers and ranges joined by `+`, such as `0-3` or `0+2`"
    )]
    Cores(String),
    #[error(
        "core {core} of `--{option}` isn't one that this process may use: {}",
        listed(allowed)
    )]
    NotAllowed {
        option: &'static str,
        core: u32,
        allowed: Vec<u32>,
    },
    #[error(
        "`{one}` and `{other}` share a core, or hardware threads of one: two jobs would be timed on it at once"
    )]
    Shared { one: String, other: String },
    #[error(
        "`--devices` has {devices} devices and `--cores` {cores} sets of cores: give one set for each device"
    )]
    Unequal { devices: usize, cores: usize },
    #[error("there are {devices} devices and {cores} cores: each device needs a core of its own")]
    FewCores { devices: usize, cores: usize },
    #[error("GPU {wanted} was asked for, and CUDA shows this process {}", match found {
        0 => "none".to_owned(),
        found => format!("{found}, numbered from 0"),
    })]
    NoGpu { wanted: usize, found: usize },
}

/// A place where one job is measured at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    /// Its logical processors, in order.
    pub cores: Vec<u32>,
    /// Its GPU.
    pub gpu: Option<Gpu>,
}

/// The lanes that were asked for: one for each device, or for each set of cores; else one with
/// everything that this process may use. With `needs_gpu`, each has a GPU.
///
/// # Errors
/// If they aren't there, or aren't disjoint.
pub fn lanes(
    devices: &[usize],
    core_sets: &[Vec<u32>],
    needs_gpu: bool,
) -> Result<Vec<Lane>, LaneError> {
    let allowed = allowed_cores().ok_or(LaneError::Untold)?;
    for core in core_sets.iter().flatten() {
        check_allowed("cores", *core, &allowed)?;
    }
    check_disjoint(core_sets)?;
    let first = [0];
    let devices = match (devices, needs_gpu) {
        ([], true) => &first,
        (devices, _) => devices,
    };
    let gpus = devices.iter().map(|&wanted| {
        let all = visible_gpus();
        let found = all.len();
        let gpu = all.into_iter().nth(wanted);
        gpu.ok_or(LaneError::NoGpu { wanted, found })
    });
    let gpus: Vec<Gpu> = gpus.collect::<Result<_, _>>()?;
    let core_sets = match (core_sets, gpus.len()) {
        ([], 0 | 1) => vec![given_by_engine(&allowed).unwrap_or(allowed)],
        ([], count) => divided(&allowed, count)?,
        (sets, 0) => sets.to_vec(),
        (sets, count) if sets.len() == count => sets.to_vec(),
        (sets, devices) => {
            return Err(LaneError::Unequal {
                devices,
                cores: sets.len(),
            });
        }
    };
    let mut gpus = gpus.into_iter();
    let lane = |cores| Lane {
        cores,
        gpu: gpus.next(),
    };
    Ok(core_sets.into_iter().map(lane).collect())
}

/// Parses a set of cores: `0-3`, `0+2`.
///
/// # Errors
/// If it's something else.
pub fn core_set(text: &str) -> Result<Vec<u32>, LaneError> {
    let mut cores = parse_list(&text.replace('+', ",")).unwrap_or_default();
    cores.sort_unstable();
    cores.dedup();
    match cores.is_empty() {
        true => Err(LaneError::Cores(text.to_owned())),
        false => Ok(cores),
    }
}

/// Cores on which preparing can't disturb `lanes`: those that were asked for, which must share no
/// core with a lane; else those of memory nodes that no lane has a core of.
///
/// # Errors
/// If those that were asked for aren't there, or are a lane's.
pub fn preparing_cores(lanes: &[Lane], asked: Option<&[u32]>) -> Result<Vec<u32>, LaneError> {
    let allowed = allowed_cores().ok_or(LaneError::Untold)?;
    if let Some(asked) = asked {
        for &core in asked {
            check_allowed("prepare-cores", core, &allowed)?;
        }
        for lane in lanes {
            check_disjoint(&[lane.cores.clone(), asked.to_vec()])?;
        }
        return Ok(asked.to_vec());
    }
    let is_idle = |node: &Vec<u32>| lanes.iter().all(|lane| !shares(&lane.cores, node));
    let idle = memory_nodes().into_iter().filter(is_idle).flatten();
    Ok(idle.filter(|core| allowed.contains(core)).collect())
}

/// Whether two of `sets` have cores of one memory node, so that what runs on one slows the other.
pub fn share_memory(sets: &[&[u32]]) -> bool {
    let nodes = memory_nodes();
    let users = |node: &Vec<u32>| sets.iter().filter(|set| shares(set, node)).count();
    nodes.is_empty() && sets.len() > 1 || nodes.iter().any(|node| users(node) > 1)
}

impl Lane {
    /// Names of its locks: one for each physical core, and the GPU's; in an order that all processes
    /// keep.
    pub fn lock_names(&self) -> Vec<String> {
        let cores: BTreeSet<u32> = self.cores.iter().map(|&core| first_sibling(core)).collect();
        let cores = cores.into_iter().map(|core| format!("core-{core:04}"));
        let gpu = self.gpu.iter().map(|gpu| format!("gpu-{}", gpu.uuid));
        cores.chain(gpu).collect()
    }
}

impl std::fmt::Display for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.gpu {
            Some(gpu) => write!(f, "GPU {} with {}", gpu.number, named(&self.cores)),
            None => f.write_str(&named(&self.cores)),
        }
    }
}

fn named(cores: &[u32]) -> String {
    match cores {
        [one] => format!("core {one}"),
        several => format!("cores {}", listed(several)),
    }
}

/// Numbers as ranges: `0-3,8`.
pub fn listed(numbers: &[u32]) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for &number in numbers {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => parts.push((number, number)),
        }
    }
    let parts = parts.into_iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    parts.collect::<Vec<_>>().join(",")
}

fn check_allowed(option: &'static str, core: u32, allowed: &[u32]) -> Result<(), LaneError> {
    match allowed.contains(&core) {
        true => Ok(()),
        false => Err(LaneError::NotAllowed {
            option,
            core,
            allowed: allowed.to_vec(),
        }),
    }
}

fn check_disjoint(sets: &[Vec<u32>]) -> Result<(), LaneError> {
    let physical =
        |set: &Vec<u32>| -> Vec<u32> { set.iter().map(|&core| first_sibling(core)).collect() };
    for (index, one) in sets.iter().enumerate() {
        for other in &sets[..index] {
            if shares(&physical(one), &physical(other)) {
                return Err(LaneError::Shared {
                    one: listed(other),
                    other: listed(one),
                });
            }
        }
    }
    Ok(())
}

fn shares(one: &[u32], other: &[u32]) -> bool {
    one.iter().any(|core| other.contains(core))
}

/// The cores that HyperQueue gave to this task, if they can be used.
fn given_by_engine(allowed: &[u32]) -> Option<Vec<u32>> {
    let mut given = parse_list(&std::env::var(HQ_CPUS).ok()?)?;
    given.sort_unstable();
    let all_allowed = given.iter().all(|core| allowed.contains(core));
    (all_allowed && !given.is_empty()).then_some(given)
}

/// `cores` in `count` sets, all hardware threads of a core in one.
fn divided(cores: &[u32], count: usize) -> Result<Vec<Vec<u32>>, LaneError> {
    let physical: BTreeSet<u32> = cores.iter().map(|&core| first_sibling(core)).collect();
    let physical: Vec<u32> = physical.into_iter().collect();
    let each = physical.len() / count;
    if each == 0 {
        return Err(LaneError::FewCores {
            devices: count,
            cores: physical.len(),
        });
    }
    let set = |physical: &[u32]| {
        let own = |core: &&u32| physical.contains(&first_sibling(**core));
        cores.iter().filter(own).copied().collect()
    };
    Ok(physical.chunks(each).take(count).map(set).collect())
}

/// The first hardware thread of the core that `core` is one of.
fn first_sibling(core: u32) -> u32 {
    let path = Path::new(CPUS).join(format!("cpu{core}/topology/thread_siblings_list"));
    let text = fs::read_to_string(path).ok();
    let siblings = text.and_then(|text| parse_list(text.trim()));
    siblings
        .and_then(|all| all.into_iter().min())
        .unwrap_or(core)
}

/// The cores of each memory node.
fn memory_nodes() -> Vec<Vec<u32>> {
    let entries = fs::read_dir(NODES).into_iter().flatten().flatten();
    let lists = entries.map(|entry| entry.path().join("cpulist"));
    let texts = lists.filter_map(|path| fs::read_to_string(path).ok());
    texts.filter_map(|text| parse_list(text.trim())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_cores_are_ranges_joined_by_a_plus() {
        assert_eq!(core_set("0-2+5").unwrap(), [0, 1, 2, 5]);
        assert_eq!(core_set("3").unwrap(), [3]);
        assert!(core_set("a").is_err() && core_set("").is_err());
        assert_eq!(listed(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
    }

    #[test]
    fn lanes_that_share_a_core_or_are_not_allowed_are_refused() {
        let allowed = allowed_cores().unwrap();
        let one = vec![allowed[0]];
        let shared = lanes(&[], &[one.clone(), one.clone()], false);
        assert!(matches!(shared, Err(LaneError::Shared { .. })));
        let absent = lanes(&[], &[vec![100_000]], false);
        assert!(matches!(absent, Err(LaneError::NotAllowed { .. })));
        let single = lanes(&[], std::slice::from_ref(&one), false).unwrap();
        assert_eq!(
            single,
            [Lane {
                cores: one.clone(),
                gpu: None
            }]
        );
        assert!(preparing_cores(&single, Some(&one)).is_err());
        assert_eq!(lanes(&[], &[], false).unwrap()[0].cores, allowed);
    }
}
