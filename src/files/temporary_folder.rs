//! Folders that have a temporary name until they're complete.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use tempfile::TempDir;

/// Every temporary name is `.partial-<process id>-<random>`.
const PREFIX: &str = ".partial-";

/// Creates a temporary folder in `parent`, and removes those that killed processes left there.
///
/// # Errors
/// If `parent` can't be read or written.
pub fn create(parent: &Path) -> io::Result<TempDir> {
    for entry in fs::read_dir(parent)?.flatten() {
        if is_left_over(&entry.file_name().to_string_lossy()) {
            // Another process may be removing it at the same time.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let prefix = format!("{PREFIX}{}-", std::process::id());
    tempfile::Builder::new().prefix(&prefix).tempdir_in(parent)
}

/// Renames the folder `made` to `target`. If `target` exists, the two swap places, so the old
/// content ends up at `made` and is removed with it.
///
/// # Errors
/// If a rename fails.
pub fn replace(made: &Path, target: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(made, fs::Permissions::from_mode(0o755))?;
    match fs::rename(made, target) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
        done => return done,
    }
    match renameat_with(CWD, made, CWD, target, RenameFlags::EXCHANGE) {
        // Some file systems can't exchange two names atomically.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            let old = made.with_extension("old");
            fs::rename(target, &old)?;
            fs::rename(made, target)?;
            fs::remove_dir_all(old)
        }
        done => Ok(done?),
    }
}

/// Whether `name` is the temporary name of a process that no longer runs.
fn is_left_over(name: &str) -> bool {
    let Some(owner) = name
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.split_once('-'))
    else {
        return false;
    };
    owner.0.parse().is_ok_and(|id| !is_alive(id))
}

#[expect(
    unsafe_code,
    reason = "the standard library can't check whether another process exists"
)]
fn is_alive(id: i32) -> bool {
    // SAFETY: signal 0 sends nothing; the call only checks whether the process exists.
    let found = unsafe { libc::kill(id, 0) } == 0;
    found || io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_of_killed_processes_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let gone = child.id();
        child.wait().unwrap();
        let path = |name: &str| parent.path().join(name);
        let dead = path(&format!("{PREFIX}{gone}-abc"));
        let living = path(&format!("{PREFIX}{}-abc", std::process::id()));
        for folder in [&dead, &living, &path("other")] {
            fs::create_dir(folder).unwrap();
        }
        let made = create(parent.path()).unwrap();
        assert!(!dead.exists());
        assert!(living.exists() && path("other").exists() && made.path().exists());
    }
}
