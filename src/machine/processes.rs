//! Processor time of processes.
//!
//! Source: `man 5 proc_pid_stat`.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// Processor time of all processes that can be seen, since each of them started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Processes(HashMap<Key, Process>);

/// A number is used again for another process, whose start is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    pid: u32,
    started: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    name: String,
    ticks: u64,
    /// The core that it ran on last.
    core: Option<u32>,
}

/// A process that used processor time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusyProcess {
    /// Its number.
    pub pid: u32,
    /// The name of its program, which the kernel cuts after 15 characters.
    pub name: String,
    /// The time that it used, in clock ticks.
    pub ticks: u64,
}

impl Processes {
    /// Reads `proc` below `root`. Processes of other containers aren't in it.
    pub fn read(root: &Path) -> Self {
        let folders = fs::read_dir(root.join("proc")).into_iter().flatten();
        let found = folders.flatten().filter_map(|folder| {
            let pid = folder.file_name().to_str()?.parse().ok()?;
            let (started, process) = parse(&fs::read_to_string(folder.path().join("stat")).ok()?)?;
            Some((Key { pid, started }, process))
        });
        Self(found.collect())
    }

    /// The processes other than `own` that used time since the reading `before`, the heaviest
    /// first. Of `allowed` cores, only those that ran there last are in it.
    pub fn busy_since(&self, before: &Self, own: u32, allowed: Option<&[u32]>) -> Vec<BusyProcess> {
        let here = |process: &Process| match (allowed, process.core) {
            (Some(allowed), Some(core)) => allowed.contains(&core),
            _ => true,
        };
        let others = self
            .0
            .iter()
            .filter(|(key, one)| key.pid != own && here(one));
        let mut busy: Vec<BusyProcess> = others
            .filter_map(|(key, process)| {
                let earlier = before.0.get(key).map_or(0, |earlier| earlier.ticks);
                let ticks = process.ticks.saturating_sub(earlier);
                (ticks > 0).then(|| BusyProcess {
                    pid: key.pid,
                    name: process.name.clone(),
                    ticks,
                })
            })
            .collect();
        busy.sort_by_key(|process| (std::cmp::Reverse(process.ticks), process.pid));
        busy
    }
}

/// Processor time of the process `pid`, in clock ticks; `None` if there's none, or the system
/// doesn't tell.
pub fn process_ticks(root: &Path, pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(root.join(format!("proc/{pid}/stat"))).ok()?;
    Some(parse(&stat)?.1.ticks)
}

/// The start and the rest of `pid (name) state ppid …`. A name may have spaces and parentheses.
fn parse(stat: &str) -> Option<(u64, Process)> {
    let (name, fields) = stat.split_once('(')?.1.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    // The manual counts from 1, and these begin with its third: `utime` is its fourteenth.
    let process = Process {
        name: name.to_owned(),
        ticks: number(11)? + number(12)?,
        core: number(36).and_then(|core| u32::try_from(core).ok()),
    };
    Some((number(19)?, process))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `stat` of a process that ran on core 1.
    fn stat(pid: u32, name: &str, user: u64, system: u64, started: u64) -> String {
        let rest = "0 ".repeat(16);
        format!(
            "{pid} ({name}) S 1 1 1 0 -1 0 0 0 0 0 {user} {system} 7 7 20 0 1 0 {started} {rest}1 0\n"
        )
    }

    fn machine(stats: &[String]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for stat in stats {
            let (pid, _) = stat.split_once(' ').unwrap();
            let folder = root.path().join("proc").join(pid);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("stat"), stat).unwrap();
        }
        fs::create_dir_all(root.path().join("proc/self")).unwrap();
        root
    }

    #[test]
    fn the_heaviest_come_first_and_a_number_may_be_used_again() {
        let read = |stats: &[String]| Processes::read(machine(stats).path());
        let before = read(&[
            stat(10, "idle", 50, 50, 1),
            stat(11, "a (b) c", 100, 0, 2),
            stat(12, "ended", 900, 0, 3),
            stat(13, "own", 0, 0, 4),
        ]);
        let after = read(&[
            stat(10, "idle", 50, 50, 1),
            stat(11, "a (b) c", 110, 5, 2),
            stat(12, "new", 20, 0, 99),
            stat(13, "own", 400, 0, 4),
        ]);
        let busy = after.busy_since(&before, 13, None);
        let busy: Vec<_> = busy
            .iter()
            .map(|one| (one.name.as_str(), one.ticks))
            .collect();
        assert_eq!(busy, [("new", 20), ("a (b) c", 15)]);
        assert_eq!(after.busy_since(&before, 13, Some(&[0])), []);
        assert_eq!(after.busy_since(&before, 13, Some(&[0, 1])).len(), 2);
    }

    #[test]
    fn the_time_of_one_process_is_that_of_all_its_threads() {
        let root = machine(&[stat(7, "worker", 30, 12, 1)]);
        assert_eq!(process_ticks(root.path(), 7), Some(42));
        assert_eq!(process_ticks(root.path(), 8), None);
    }
}
