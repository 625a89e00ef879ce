//! Folders that have a temporary name until they're complete.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use tempfile::TempDir;

use super::temporary_name::{self, Others};

/// Creates a temporary folder in `parent`, and removes those that killed processes left there.
///
/// # Errors
/// If `parent` can't be written.
pub fn create(parent: &Path) -> io::Result<TempDir> {
    create_as(&temporary_name::prefix(), parent)
}

/// Creates a folder in the system's temporary folder. It's removed when it's dropped, or by a later
/// process if this one is killed.
///
/// # Errors
/// If the system's temporary folder can't be written.
pub fn scratch() -> io::Result<TempDir> {
    create_as(&temporary_name::scratch_prefix(), &std::env::temp_dir())
}

fn create_as(prefix: &str, parent: &Path) -> io::Result<TempDir> {
    let others = Others::in_folder(parent);
    others.remove_dead();
    let made = tempfile::Builder::new().prefix(prefix).tempdir_in(parent)?;
    others.remove_abandoned(fs::metadata(made.path())?.modified()?);
    Ok(made)
}

/// Renames the folder `made` to `target`, which mustn't exist.
///
/// # Errors
/// If it exists, or the rename fails.
pub fn give_name(made: &Path, target: &Path) -> io::Result<()> {
    allow_all_to_read(made)?;
    match renameat_with(CWD, made, CWD, target, RenameFlags::NOREPLACE) {
        // Some file systems can't. There, a folder that's made in between is replaced if it's empty.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => match target.symlink_metadata() {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => fs::rename(made, target),
        },
        done => Ok(done?),
    }
}

/// Renames the folder `made` to `target`. If `target` exists, the two swap places, so the old
/// content ends up at `made` and is removed with it.
///
/// # Errors
/// If a rename fails.
pub fn replace(made: &Path, target: &Path) -> io::Result<()> {
    allow_all_to_read(made)?;
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

/// Temporary folders are private to the user.
fn allow_all_to_read(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
}
