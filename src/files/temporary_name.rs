//! Temporary names of files and folders. They say which process writes there, so that what a killed
//! process left is removed by the next one.

use std::fs::{self, DirEntry};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

/// Every temporary name is `.partial-<place>-<process id>-<random>`.
const PREFIX: &str = ".partial-";

/// In the system's temporary folder, names say whose they are.
const SCRATCH_PREFIX: &str = "peft-bench-";

/// Whether a process of another machine still runs can't be asked here. What wasn't changed for so
/// long is its remains.
const ABANDONED: Duration = Duration::from_secs(7 * 24 * 3600);

/// The part of a temporary name before the random one, for this process.
pub fn prefix() -> String {
    format!("{PREFIX}{}", owner())
}

/// The same, in the system's temporary folder.
pub fn scratch_prefix() -> String {
    format!("{SCRATCH_PREFIX}{}", owner())
}

/// What stands in `folder` under a temporary name of another process.
#[derive(Debug)]
pub struct Others(Vec<Other>);

#[derive(Debug)]
struct Other {
    entry: DirEntry,
    /// Its process; `None` if it runs, or ran, in another place.
    process: Option<i32>,
}

impl Others {
    /// Looks for them. A folder that can't be read has none.
    pub fn in_folder(folder: &Path) -> Self {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let other = |entry: DirEntry| {
            let name = entry.file_name();
            let (its_place, id) = parts(name.to_str()?)?;
            let process = (its_place == place()).then_some(id);
            let is_own = process == Some(std::process::id() as i32);
            (!is_own).then_some(Other { entry, process })
        };
        Self(entries.filter_map(other).collect())
    }

    /// Removes what killed processes of this machine left.
    pub fn remove_dead(&self) {
        let is_dead = |other: &&Other| other.process.is_some_and(|id| !is_alive(id));
        self.0.iter().filter(is_dead).for_each(Other::remove);
    }

    /// Removes what other machines, or this one before it was started, left long before `now`, by
    /// the clock of the file system.
    pub fn remove_abandoned(&self, now: SystemTime) {
        for other in self.0.iter().filter(|other| other.process.is_none()) {
            let changed = other.entry.metadata().and_then(|found| found.modified());
            let age = changed.ok().and_then(|time| now.duration_since(time).ok());
            if age.is_some_and(|age| age >= ABANDONED) {
                other.remove();
            }
        }
    }
}

impl Other {
    /// Another process may remove it at the same time, and another user's can't be removed.
    fn remove(&self) {
        let _ = match self.entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            true => fs::remove_dir_all(self.entry.path()),
            false => fs::remove_file(self.entry.path()),
        };
    }
}

/// `<place>-<process id>-`
fn owner() -> String {
    format!("{}-{}-", place(), std::process::id())
}

/// Where process ids mean the same as here: on this machine, since it was started, and in the same
/// container. Several machines may write to one folder.
fn place() -> &'static str {
    static PLACE: OnceLock<String> = OnceLock::new();
    PLACE.get_or_init(|| {
        let mut hash = Sha256::new();
        for file in ["hostname", "random/boot_id"] {
            hash.update(fs::read(format!("/proc/sys/kernel/{file}")).unwrap_or_default());
        }
        let processes = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        hash.update(processes.as_os_str().as_encoded_bytes());
        let digest = hash.finalize();
        let first = [digest[0], digest[1], digest[2], digest[3]];
        format!("{:08x}", u32::from_be_bytes(first))
    })
}

/// The place and the process id in a temporary name.
fn parts(name: &str) -> Option<(&str, i32)> {
    let scratch = || name.strip_prefix(SCRATCH_PREFIX);
    let mut parts = name.strip_prefix(PREFIX).or_else(scratch)?.splitn(3, '-');
    let (place, process, _) = (parts.next()?, parts.next()?, parts.next()?);
    let is_place = place.len() == 8 && place.bytes().all(|byte| byte.is_ascii_hexdigit());
    Some((place, process.parse().ok()?)).filter(|_| is_place)
}

#[expect(
    unsafe_code,
    reason = "the standard library can't check whether another process exists"
)]
fn is_alive(id: i32) -> bool {
    // SAFETY: signal 0 sends nothing; the call only checks whether the process exists.
    let found = unsafe { libc::kill(id, 0) } == 0;
    found || std::io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The id of a process that ran and doesn't any more.
    fn gone() -> u32 {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        child.id()
    }

    #[test]
    fn only_what_killed_processes_left_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let path = |name: String| parent.path().join(name);
        let dead = path(format!("{PREFIX}{}-{}-abc", place(), gone()));
        let dead_file = path(format!("{PREFIX}{}-{}-abd", place(), gone()));
        let own = path(format!("{}abc", prefix()));
        let living = path(format!("{PREFIX}{}-1-abc", place()));
        // Its process is another machine's, where it may still run.
        let elsewhere = path(format!("{PREFIX}00000000-{}-abc", gone()));
        let other = path("other".to_owned());
        // Locks in the system's temporary folder.
        let locks = path(format!("{SCRATCH_PREFIX}locks"));
        for folder in [&dead, &own, &living, &elsewhere, &other, &locks] {
            fs::create_dir(folder).unwrap();
        }
        fs::write(&dead_file, "half").unwrap();
        let others = Others::in_folder(parent.path());
        others.remove_dead();
        others.remove_abandoned(SystemTime::now());
        assert!(!dead.exists() && !dead_file.exists());
        assert!(own.exists() && living.exists() && elsewhere.exists() && other.exists());
        others.remove_abandoned(SystemTime::now() + ABANDONED);
        assert!(own.exists() && living.exists() && other.exists() && locks.exists());
        assert!(!elsewhere.exists());
    }
}
