//! How many cores this process may use.

use std::{num::NonZeroUsize, path::Path, thread};

/// Logical processors that this process may use: its affinity mask, and on Linux its cgroup's CPU
/// quota, rounded down, but at least 1.
pub fn usable_cores() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Physical cores that this process may use, at least 1. This is the default number of threads.
///
/// A core counts if at least one of its hardware threads is in the affinity mask; a CPU quota caps
/// the count. If the system doesn't report which threads share a core, each usable logical
/// processor counts as one core.
pub fn physical_cores() -> usize {
    let usable = usable_cores();
    distinct_cores().unwrap_or(usable).clamp(1, usable)
}

/// Numbers of the logical processors in this process' affinity mask; `None` if the system doesn't
/// report them.
pub fn allowed_cores() -> Option<Vec<u32>> {
    allowed_list(Path::new("/"), "Cpus_allowed_list:")
}

/// The numbers that `proc/self/status` below `root` lists under `key`, such as
/// `Cpus_allowed_list:`; `None` if the system doesn't tell.
pub fn allowed_list(root: &Path, key: &str) -> Option<Vec<u32>> {
    listed(
        &std::fs::read_to_string(root.join("proc/self/status")).ok()?,
        key,
    )
}

/// The numbers of the line in `status` that begins with `key`.
fn listed(status: &str, key: &str) -> Option<Vec<u32>> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    parse_list(line.trim())
}

/// Parses a list of numbers and ranges such as `0-3,8,10-11`.
pub fn parse_list(list: &str) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        numbers.extend(first.parse::<u32>().ok()?..=last.parse::<u32>().ok()?);
    }
    Some(numbers)
}

#[cfg(target_os = "linux")]
fn distinct_cores() -> Option<usize> {
    linux::distinct_cores(
        &std::fs::read_to_string("/proc/self/status").ok()?,
        std::path::Path::new("/sys/devices/system/cpu"),
    )
}

#[cfg(not(target_os = "linux"))]
fn distinct_cores() -> Option<usize> {
    sysinfo::System::physical_core_count().ok()
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::listed;

    /// Counts the distinct physical cores of the logical processors in `Cpus_allowed_list`, using
    /// the topology in `cpu_folder`; `None` if either is absent.
    pub(super) fn distinct_cores(status: &str, cpu_folder: &Path) -> Option<usize> {
        let cores = listed(status, "Cpus_allowed_list:")?
            .into_iter()
            .map(|cpu| {
                let siblings = format!("cpu{cpu}/topology/thread_siblings_list");
                fs::read_to_string(cpu_folder.join(siblings)).ok()
            })
            .collect::<Option<BTreeSet<String>>>()?;
        Some(cores.len())
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        /// Two cores with two threads each: 0 and 2 share a core, 1 and 3 the other, as most
        /// machines number them.
        fn topology() -> tempfile::TempDir {
            let folder = tempfile::tempdir().unwrap();
            for cpu in 0..4 {
                let topology = folder.path().join(format!("cpu{cpu}/topology"));
                fs::create_dir_all(&topology).unwrap();
                let siblings = format!("{},{}\n", cpu % 2, cpu % 2 + 2);
                fs::write(topology.join("thread_siblings_list"), siblings).unwrap();
            }
            folder
        }

        #[test]
        fn hardware_threads_of_one_core_count_once() {
            let folder = topology();
            let cores =
                |list| distinct_cores(&format!("Cpus_allowed_list:\t{list}\n"), folder.path());
            assert_eq!(cores("0-3"), Some(2));
            assert_eq!(cores("0,2"), Some(1));
            assert_eq!(cores("0-1"), Some(2));
            assert_eq!(cores("3"), Some(1));
        }

        #[test]
        fn an_unknown_topology_is_not_guessed() {
            let folder = topology();
            assert_eq!(
                distinct_cores("Cpus_allowed_list:\t0-4\n", folder.path()),
                None
            );
            assert_eq!(distinct_cores("Threads:\t1\n", folder.path()), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_affinity_mask_is_read_from_the_status() {
        let status = "Threads:\t1\nCpus_allowed_list:\t1-2,6\n";
        assert_eq!(listed(status, "Cpus_allowed_list:"), Some(vec![1, 2, 6]));
        assert_eq!(listed("Threads:\t1\n", "Cpus_allowed_list:"), None);
    }

    #[test]
    fn lists_may_mix_ranges_and_single_numbers() {
        assert_eq!(parse_list("0-2,5,7-8"), Some(vec![0, 1, 2, 5, 7, 8]));
        assert_eq!(parse_list("many"), None);
    }

    #[test]
    fn there_is_at_least_one_core_and_no_more_than_are_usable() {
        assert!((1..=usable_cores()).contains(&physical_cores()));
    }
}
