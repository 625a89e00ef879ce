//! Locks of cores and GPUs, on this machine alone: whoever has one measures there, and nobody else.
//!
//! A lock is a file below `/run/lock`, which isn't shared with other machines. The kernel gives it
//! up when the last process ends that has it open; the processes that measure inherit it, so that a
//! killed parent doesn't free a device that a child still computes on.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::lanes::Lane;

/// The variable with another folder for locks.
const FOLDER: &str = "PEFT_BENCH_LOCKS";
const LOOK: Duration = Duration::from_millis(200);

/// The locks of a lane, until this is dropped and all processes have ended that inherited them.
#[derive(Debug)]
pub struct DeviceLocks(Vec<File>);

impl DeviceLocks {
    /// Waits for the locks of `lane`; `None` if that took longer than `patience`, or `stop` says so.
    /// `waiting` is told once which one it waits for.
    ///
    /// # Errors
    /// If a lock's file can't be opened.
    pub fn take(
        lane: &Lane,
        patience: Duration,
        stop: &dyn Fn() -> bool,
        waiting: &dyn Fn(&str),
    ) -> io::Result<Option<Self>> {
        let folder = folder()?;
        let began = Instant::now();
        let mut told = false;
        let mut taken = Vec::new();
        // All processes take them in the same order, so two never wait for each other.
        for name in lane.lock_names() {
            let file = open(&folder.join(format!("{name}.lock")))?;
            loop {
                match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                    Ok(()) => break,
                    Err(rustix::io::Errno::WOULDBLOCK) => {}
                    Err(error) => return Err(error.into()),
                }
                if stop() || began.elapsed() >= patience {
                    return Ok(None);
                }
                if !told {
                    waiting(&name);
                    told = true;
                }
                sleep(LOOK);
            }
            taken.push(file);
        }
        Ok(Some(Self(taken)))
    }

    /// The descriptors, for a child that shall have the locks too.
    pub fn descriptors(&self) -> Vec<RawFd> {
        self.0.iter().map(AsRawFd::as_raw_fd).collect()
    }
}

/// The folder of locks: `PEFT_BENCH_LOCKS`, or a folder of this machine that all its users can
/// write to, else of this user.
fn folder() -> io::Result<PathBuf> {
    if let Some(named) = std::env::var_os(FOLDER).filter(|value| !value.is_empty()) {
        let named = PathBuf::from(named);
        fs::create_dir_all(&named)?;
        return Ok(named);
    }
    let of_user = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let places = [Some(PathBuf::from("/run/lock")), of_user];
    for place in places.into_iter().flatten() {
        let folder = place.join("peft-bench");
        if make_for_all(&folder).is_ok() && is_writable(&folder) {
            return Ok(folder);
        }
    }
    let folder = std::env::temp_dir().join("peft-bench-locks");
    make_for_all(&folder)?;
    Ok(folder)
}

fn make_for_all(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o777))
}

fn is_writable(folder: &Path) -> bool {
    tempfile::Builder::new()
        .prefix(".try-")
        .tempfile_in(folder)
        .is_ok()
}

/// Opens a lock's file, which another user may have made.
fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::PermissionsExt;
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    match File::create_new(path) {
        Ok(file) => {
            file.set_permissions(fs::Permissions::from_mode(0o666))?;
            Ok(file)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => File::open(path),
        Err(error) => Err(error),
    }
}
