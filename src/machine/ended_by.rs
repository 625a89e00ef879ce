//! What a signal that ended a process tells: did memory run out, did it crash, did somebody end it?
//!
//! The kernel ends a process for want of memory with the same signal as `kill -9`. It counts these
//! ends, for each control group and for the whole machine, so a count that grew tells them apart.
//!
//! Sources: Linux, `memory.events` in `Documentation/admin-guide/cgroup-v2.rst`, `memory.oom_control`
//! in `cgroup-v1/memory.rst`, and `oom_kill` in `/proc/vmstat`.

use std::fs;
use std::path::Path;

use super::cgroup::{Version, folders};

/// How many processes the kernel has ended for want of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryKills {
    /// In this process' control group.
    group: Option<u64>,
    /// On the machine.
    machine: Option<u64>,
}

impl MemoryKills {
    /// The counts now.
    pub fn now() -> Self {
        Self::below(Path::new("/"))
    }

    fn below(root: &Path) -> Self {
        let group = || {
            let own = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
            let groups = folders(&own, &root.join("sys/fs/cgroup"), "memory");
            // The group itself; in a container, whose name for it is the host's, the first that's there.
            groups.into_iter().find_map(|(version, folders)| {
                let file = match version {
                    Version::One => "memory.oom_control",
                    Version::Two => "memory.events",
                };
                folders
                    .iter()
                    .find_map(|folder| count(&fs::read_to_string(folder.join(file)).ok()?))
            })
        };
        let machine = fs::read_to_string(root.join("proc/vmstat"));
        Self {
            group: group(),
            machine: machine.ok().and_then(|text| count(&text)),
        }
    }

    /// Whether memory ran out since `before`; `None` if the system doesn't tell.
    fn grew_since(&self, before: &Self) -> Option<bool> {
        let pairs = [(before.group, self.group), (before.machine, self.machine)];
        // The group's count is more certain, as other processes aren't in it.
        pairs.iter().find_map(|pair| Some(pair.1? > pair.0?))
    }
}

/// The count in lines `name number`.
fn count(text: &str) -> Option<u64> {
    let lines = text.lines();
    let mut counts = lines.filter_map(|line| line.strip_prefix("oom_kill "));
    counts.next()?.trim().parse().ok()
}

/// How `signal` ended a process, to stand after its name; `before` was counted when it began.
pub fn ended_by(signal: i32, before: &MemoryKills) -> String {
    match signal {
        libc::SIGKILL => killed(MemoryKills::now().grew_since(before)).to_owned(),
        libc::SIGSEGV => "crashed (signal 11, SIGSEGV)".to_owned(),
        libc::SIGILL => {
            "crashed (signal 4, SIGILL: an instruction that this processor lacks)".to_owned()
        }
        libc::SIGFPE => "crashed (signal 8, SIGFPE)".to_owned(),
        libc::SIGBUS => {
            "crashed (signal 7, SIGBUS: a file that it had mapped became shorter, or can't be read)"
                .to_owned()
        }
        libc::SIGABRT => format!(
            "gave up (signal 6, SIGABRT): the line above says why{}",
            match limit() {
                Some(limit) => format!(
                    "; if memory couldn't be had: processes are limited to {} MiB of addresses (`ulimit -v`)",
                    limit >> 20
                ),
                None => String::new(),
            }
        ),
        signal => format!("was ended by signal {signal}"),
    }
}

fn killed(for_memory: Option<bool>) -> &'static str {
    match for_memory {
        Some(true) => {
            "was killed by the kernel, as memory ran out (signal 9): it needs a smaller model, dtype, batch or context, \
             or more memory"
        }
        Some(false) => "was killed by somebody (signal 9): memory hadn't run out",
        None => "was killed (signal 9: out of memory, or by somebody)",
    }
}

/// The limit of this process' addresses, in bytes, which those that it starts have too.
#[expect(unsafe_code, reason = "limits have no safe interface")]
fn limit() -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the call writes into `limit` alone.
    let done = unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut limit) } == 0;
    (done && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(files: &[(&str, &str)]) -> MemoryKills {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        MemoryKills::below(root.path())
    }

    #[test]
    fn both_versions_of_control_groups_count() {
        let of = |group: &str, file: &str, text: &str| {
            counts(&[
                ("proc/self/cgroup", group),
                (file, text),
                ("proc/vmstat", "oom_kill 9\n"),
            ])
        };
        let expected = MemoryKills {
            group: Some(3),
            machine: Some(9),
        };
        let one = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        let file = "sys/fs/cgroup/memory/job/memory.oom_control";
        assert_eq!(of("4:memory:/job\n", file, one), expected);
        let two = "low 0\noom 4\noom_kill 3\noom_group_kill 0\n";
        let file = "sys/fs/cgroup/job/memory.events";
        assert_eq!(of("0::/job\n", file, two), expected);
        // The host's name of the group, in a container.
        let file = "sys/fs/cgroup/memory.events";
        assert_eq!(of("0::/docker/0123\n", file, two), expected);
    }

    #[test]
    fn the_groups_count_decides_and_without_any_it_cannot_be_told() {
        let of = |group, machine| MemoryKills { group, machine };
        let grew = |before: MemoryKills, now: MemoryKills| now.grew_since(&before);
        // Another group's process was killed.
        assert_eq!(
            grew(of(Some(1), Some(4)), of(Some(1), Some(5))),
            Some(false)
        );
        assert_eq!(grew(of(Some(1), Some(4)), of(Some(2), Some(5))), Some(true));
        assert_eq!(grew(of(None, Some(4)), of(None, Some(5))), Some(true));
        assert_eq!(grew(of(None, None), of(None, None)), None);
        assert!(killed(Some(true)).contains("memory ran out"));
        assert!(killed(Some(false)).contains("by somebody"));
    }
}
