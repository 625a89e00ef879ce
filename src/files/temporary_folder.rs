//! Folders under a temporary name, until they're complete.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use tempfile::TempDir;

/// In front of every temporary name; the process that makes it comes next.
const PREFIX: &str = ".partial-";

/// Makes a temporary folder in `parent`, and removes those that a killed process left there.
pub fn create(parent: &Path) -> io::Result<TempDir> {
    for entry in fs::read_dir(parent)?.flatten() {
        if is_left_over(&entry.file_name().to_string_lossy()) {
            // Somebody else may be removing it just now.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let prefix = format!("{PREFIX}{}-", std::process::id());
    tempfile::Builder::new().prefix(&prefix).tempdir_in(parent)
}

/// Puts the folder `made` in the place of `target`. What was there, or what another process has put there
/// meanwhile, takes the place of `made`, and is removed with it.
pub fn replace(made: &Path, target: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(made, fs::Permissions::from_mode(0o755))?;
    match fs::rename(made, target) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
        done => return done,
    }
    match renameat_with(CWD, made, CWD, target, RenameFlags::EXCHANGE) {
        // Not every file system can exchange.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            let old = made.with_extension("old");
            fs::rename(target, &old)?;
            fs::rename(made, target)?;
            fs::remove_dir_all(old)
        }
        done => Ok(done?),
    }
}

/// Whether `name` is a temporary one of a process that's gone.
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
    reason = "the standard library can't ask about other processes"
)]
fn is_alive(id: i32) -> bool {
    // SAFETY: signal 0 is not sent; the call only says whether there's such a process.
    let found = unsafe { libc::kill(id, 0) } == 0;
    found || io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_is_removed_and_nothing_else() {
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
