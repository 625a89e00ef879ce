//! The memory limit of this process' control group, versions 1 and 2.
//!
//! `/proc/self/cgroup` names the group. The effective limit is the lowest one from that group up to
//! the root. In a container the name is often the host's, which doesn't exist under the container's
//! `/sys/fs/cgroup`; there, the root is the container's group.
//!
//! Sources: Linux, `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/memory.rst`; `man 7
//! cgroups`.

use std::{fs, path::Path};

/// The limit in bytes; `None` without a limit or without control groups. Version 1 reports "no
/// limit" as a number larger than any RAM.
pub(super) fn memory_limit_bytes() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    lowest_limit(&groups, Path::new("/sys/fs/cgroup"))
}

/// `groups` is the text of `/proc/self/cgroup`: one line `hierarchy:controllers:path` for each
/// hierarchy, with empty controllers in version 2.
fn lowest_limit(groups: &str, mount: &Path) -> Option<u64> {
    groups
        .lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            if controllers.is_empty() {
                lowest_on_the_way_up(mount, path, "memory.max")
            } else if controllers.split(',').any(|name| name == "memory") {
                lowest_on_the_way_up(&mount.join("memory"), path, "memory.limit_in_bytes")
            } else {
                None
            }
        })
        .min()
}

/// The lowest limit in `file`, from `group` up to `root`. A file that's absent or contains `max`
/// sets none.
fn lowest_on_the_way_up(root: &Path, group: &str, file: &str) -> Option<u64> {
    Path::new(group.trim_start_matches('/'))
        .ancestors()
        .filter_map(|folder| {
            let limit = fs::read_to_string(root.join(folder).join(file)).ok()?;
            limit.trim().parse().ok()
        })
        .min()
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
