//! The process of an attempt: this program again, on the lane's cores and GPU, with its locks.

use std::fs::File;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::lanes::Lane;

const LOOK: Duration = Duration::from_millis(50);
/// What a process is given to end by itself. It writes what it has within a second or two.
const GRACE: Duration = Duration::from_secs(20);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself.
    Exited(i32),
    /// By a signal that this program didn't send.
    Signal(i32),
    /// It took longer than it was allowed to, and was ended.
    TimedOut,
    /// It was ended because everything shall stop.
    Stopped,
}

/// Where a process runs.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Its cores.
    pub cores: &'a [u32],
    /// Its GPU, as `CUDA_VISIBLE_DEVICES` names it.
    pub gpu: Option<&'a str>,
    /// Descriptors that it and its children keep open.
    pub inherited: &'a [RawFd],
    /// Whether it gives way to everything else.
    pub is_low_priority: bool,
}

impl<'a> Place<'a> {
    /// The place of a measurement in `lane`.
    pub fn of(lane: &'a Lane, inherited: &'a [RawFd]) -> Self {
        Self {
            cores: &lane.cores,
            gpu: lane.gpu.as_ref().map(|gpu| gpu.uuid.as_str()),
            inherited,
            is_low_priority: false,
        }
    }
}

/// Starts this program with `arguments` in `folder`, at `place`; what it prints goes to `log`.
///
/// # Errors
/// If it can't be started.
pub fn start(arguments: &[String], folder: &Path, place: Place, log: &Path) -> io::Result<Child> {
    let log = File::create(log)?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(arguments)
        .current_dir(folder)
        .stdin(std::process::Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C in a terminal reaches this program alone, which ends its children.
        .process_group(0);
    if let Some(gpu) = place.gpu {
        command.env("CUDA_VISIBLE_DEVICES", gpu);
    }
    placed(&mut command, place);
    command.spawn()
}

/// Adds what's done in the child before the program is loaded.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "a hook between fork and exec has no safe form")]
fn placed(command: &mut Command, place: Place) {
    // SAFETY: a `cpu_set_t` is a set of bits, for which zeros are the empty set.
    let mut cores: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &core in place.cores {
        if (core as usize) < 8 * size_of::<libc::cpu_set_t>() {
            // SAFETY: the core's bit is within the set.
            unsafe { libc::CPU_SET(core as usize, &mut cores) };
        }
    }
    let inherited = place.inherited.to_vec();
    let is_low_priority = place.is_low_priority;
    let parent = std::process::id();
    let prepare = move || {
        // SAFETY: system calls alone, on values of this closure. Nothing is allocated.
        unsafe {
            // A killed parent takes its child along, which has time to write what it measured.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            if libc::getppid() as u32 != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            if libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &cores) != 0 {
                return Err(io::Error::last_os_error());
            }
            for &descriptor in &inherited {
                if libc::fcntl(descriptor, libc::F_SETFD, 0) != 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            if is_low_priority {
                libc::setpriority(libc::PRIO_PROCESS, 0, 19);
                // The idle class of reads and writes, of this process.
                libc::syscall(libc::SYS_ioprio_set, 1, 0, 3 << 13);
            }
        }
        Ok(())
    };
    // SAFETY: the hook makes system calls only, which are all async-signal-safe.
    unsafe {
        command.pre_exec(prepare);
    }
}

/// Lanes need Linux, so there's nothing to be placed.
#[cfg(not(target_os = "linux"))]
fn placed(_: &mut Command, _: Place) {}

/// Waits for `child`, and ends it when `limit` is over or `stop` says so. `beat` is called again and
/// again.
///
/// # Errors
/// If it can't be waited for.
pub fn wait(
    child: &mut Child,
    limit: Option<Duration>,
    stop: &dyn Fn() -> bool,
    beat: &mut dyn FnMut(),
) -> io::Result<End> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(end_of(status));
        }
        if stop() {
            return ended(child, End::Stopped);
        }
        if limit.is_some_and(|limit| began.elapsed() >= limit) {
            return ended(child, End::TimedOut);
        }
        beat();
        sleep(LOOK);
    }
}

/// Asks `child` to end, and ends it if it doesn't. One that did its work all the same has done it.
fn ended(child: &mut Child, how: End) -> io::Result<End> {
    signal(child, libc::SIGTERM);
    let began = Instant::now();
    while began.elapsed() < GRACE {
        if let Some(status) = child.try_wait()? {
            return Ok(match end_of(status) {
                End::Exited(0) => End::Exited(0),
                _ => how,
            });
        }
        sleep(LOOK);
    }
    child.kill()?;
    child.wait()?;
    Ok(how)
}

fn end_of(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Exited(code),
        (None, signal) => End::Signal(signal.unwrap_or_default()),
    }
}

#[expect(
    unsafe_code,
    reason = "the standard library sends no signal but SIGKILL"
)]
fn signal(child: &Child, signal: i32) {
    // SAFETY: the child wasn't waited for, so its number isn't another process'.
    unsafe {
        libc::kill(child.id() as i32, signal);
    }
}
