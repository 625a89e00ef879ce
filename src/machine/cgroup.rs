//! The control group of this process, versions 1 and 2, and its memory limit.
//!
//! `/proc/self/cgroup` names the group. The effective limit is the lowest one from that group up to
//! the root. In a container the name is often the host's, which doesn't exist under the container's
//! `/sys/fs/cgroup`; there, the root is the container's group.
//!
//! Sources: Linux, `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/memory.rst`; `man 7
//! cgroups`.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The limit in bytes; `None` without a limit or without control groups. Version 1 reports "no
/// limit" as a number larger than any RAM.
pub fn memory_limit_bytes() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    lowest_limit(&groups, Path::new("/sys/fs/cgroup"))
}

/// The lowest limit of the memory of this process' group. A file that's absent or contains `max`
/// sets none.
fn lowest_limit(groups: &str, mount: &Path) -> Option<u64> {
    let all = folders(groups, mount, "memory").into_iter();
    all.flat_map(|(version, folders)| {
        let file = match version {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        };
        folders.into_iter().filter_map(move |folder| {
            let limit = fs::read_to_string(folder.join(file)).ok()?;
            limit.trim().parse().ok()
        })
    })
    .min()
}

/// A version of control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// A hierarchy for each controller.
    One,
    /// One hierarchy for all.
    Two,
}

/// The folders of this process' group and of those above it, up to the root, in each hierarchy
/// that may have `controller`. They may not be there.
///
/// `groups` is the text of `/proc/self/cgroup`: one line `hierarchy:controllers:path` for each
/// hierarchy, with empty controllers in version 2.
pub fn folders(groups: &str, mount: &Path, controller: &str) -> Vec<(Version, Vec<PathBuf>)> {
    let found = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let (version, root) = if controllers.is_empty() {
            (Version::Two, mount.to_owned())
        } else if controllers.split(',').any(|name| name == controller) {
            (Version::One, mount.join(controller))
        } else {
            return None;
        };
        let path = Path::new(path.trim_start_matches('/'));
        let folders = path.ancestors().map(|folder| root.join(folder));
        Some((version, folders.collect()))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(files: &[(&str, &str)]) -> tempfile::TempDir {
        let mount = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = mount.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        mount
    }

    #[test]
    fn the_lowest_limit_up_to_the_root_counts() {
        let mount = mount(&[
            ("user/bench/memory.max", "max\n"),
            ("user/memory.max", "4096\n"),
            ("memory.max", "8192\n"),
        ]);
        assert_eq!(lowest_limit("0::/user/bench\n", mount.path()), Some(4096));
    }

    #[test]
    fn a_group_name_of_the_host_falls_back_to_the_containers_root() {
        let mount = mount(&[("memory.max", "8192\n")]);
        assert_eq!(
            lowest_limit("0::/docker/0123abcd\n", mount.path()),
            Some(8192)
        );
    }

    #[test]
    fn version_1_keeps_memory_in_a_hierarchy_of_its_own() {
        let mount = mount(&[
            ("memory/job/memory.limit_in_bytes", "2048\n"),
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ]);
        let groups = "5:cpu,cpuacct:/job\n4:memory:/job\n0::/\n";
        assert_eq!(lowest_limit(groups, mount.path()), Some(2048));
    }

    #[test]
    fn no_limit_is_none() {
        let mount = mount(&[("memory.max", "max\n")]);
        assert_eq!(lowest_limit("0::/\n", mount.path()), None);
        assert_eq!(lowest_limit("", mount.path()), None);
    }
}
