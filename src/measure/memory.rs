//! The memory of a worker process, now and at its peak.
//!
//! Resident memory has two parts of different cost: **anonymous** memory belongs to this process
//! alone; **file-backed** memory belongs to the page cache, is shared by all processes that map the
//! same weights, and is dropped under memory pressure. A model with mapped weights has little of
//! the first and much of the second.
//!
//! - this file: one reading, [`ProcessMemory`]
//! - [`MemorySampler`]: the peaks between the stages of a run
//!
//! On Linux the figures come from `/proc/self/status` (`man 5 proc_pid_status`). On other systems
//! they come from `sysinfo`, which has neither the two parts nor the peak.

#[cfg(target_os = "linux")]
#[path = "memory/linux.rs"]
mod platform;
#[cfg(not(target_os = "linux"))]
#[path = "memory/other.rs"]
mod platform;
mod sampler;

use std::io;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use sampler::{MemoryRecord, MemorySampler, PeakMethod, StageMemory};

/// One reading of this process' memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessMemory {
    /// The resident size, anonymous and file-backed (`VmRSS`).
    pub rss_bytes: u64,
    /// Anonymous memory: heap, stacks, copied weights (`RssAnon`). Linux only.
    pub anonymous_bytes: Option<u64>,
    /// Pages of mapped files (programs and weights) and of shared memory (`RssFile` + `RssShmem`).
    /// Linux only.
    pub file_backed_bytes: Option<u64>,
    /// The largest `rss_bytes` since the process began or since [`reset_peak`] (`VmHWM`). The
    /// kernel records it, so it's exact even for a short peak. Linux only.
    pub peak_rss_bytes: Option<u64>,
}

/// Why this process's memory can't be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The file can't be read.
    #[error("cannot read `{path}`")]
    Read {
        /// The file.
        path: &'static str,
        /// The reason.
        #[source]
        source: io::Error,
    },

    /// The file lacks the line, or it isn't a number of kB.
    #[error("`{path}` has no line `{key}` with a number of kB")]
    Line {
        /// The file.
        path: &'static str,
        /// The line's name.
        key: &'static str,
    },

    /// `sysinfo` doesn't find this process.
    #[error("the operating system does not tell the memory of this process")]
    Unsupported,

    /// The thread that samples couldn't be started.
    #[error("cannot start the thread that samples memory")]
    Thread(#[source] io::Error),
}

impl ProcessMemory {
    /// Reads this process's memory, which takes some tens of µs on Linux.
    ///
    /// # Errors
    /// If the operating system doesn't report it.
    pub fn read() -> Result<Self, MemoryError> {
        platform::read()
    }
}

/// Resets the kernel's high-water mark to the present resident size. Returns whether that worked.
///
/// It works on Linux if `/proc/self/clear_refs` is writable; some sandboxes lack it.
pub fn reset_peak() -> bool {
    platform::reset_peak()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const MIB: u64 = 1 << 20;

    /// Runs `test`, the test `name` of `module`, in its own process: other tests in the same
    /// process allocate memory too.
    pub(crate) fn alone(module: &str, name: &str, test: impl FnOnce()) {
        const ALONE: &str = "PEFT_BENCH_TEST_ALONE";
        if std::env::var_os(ALONE).is_some() {
            return test();
        }
        let (_, in_crate) = module.split_once("::").unwrap();
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args([&format!("{in_crate}::{name}"), "--exact", "--nocapture"])
            .env(ALONE, "1")
            .output()
            .unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && stdout.contains("1 passed"),
            "{stdout}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// An allocation of this many bytes, with every page written.
    pub(crate) fn touched(bytes: u64) -> Vec<u8> {
        std::hint::black_box(vec![1; bytes as usize])
    }

    #[test]
    fn a_running_process_has_resident_memory() {
        let memory = ProcessMemory::read().unwrap();
        assert!(memory.rss_bytes > 0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_allocation_of_96_mib_is_seen_as_anonymous_memory() {
        alone(
            module_path!(),
            "an_allocation_of_96_mib_is_seen_as_anonymous_memory",
            || {
                let before = ProcessMemory::read().unwrap();
                let block = touched(96 * MIB);
                let after = ProcessMemory::read().unwrap();
                drop(block);

                let rise = after.anonymous_bytes.unwrap() - before.anonymous_bytes.unwrap();
                assert!((90 * MIB..110 * MIB).contains(&rise), "{rise}");
                assert!(after.rss_bytes - before.rss_bytes >= 90 * MIB);
                let file_backed = after.file_backed_bytes.unwrap();
                assert!(file_backed - before.file_backed_bytes.unwrap() < 10 * MIB);
            },
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_mapped_file_is_file_backed_and_not_anonymous() {
        alone(
            module_path!(),
            "a_mapped_file_is_file_backed_and_not_anonymous",
            || {
                let memory = ProcessMemory::read().unwrap();
                // The test's own program is a mapped file of some MiB.
                let file_backed = memory.file_backed_bytes.unwrap();
                let anonymous = memory.anonymous_bytes.unwrap();
                assert!(file_backed > anonymous, "{memory:?}");
                assert_eq!(file_backed + anonymous, memory.rss_bytes);
            },
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_high_water_mark_remembers_what_was_freed_until_it_is_reset() {
        alone(
            module_path!(),
            "the_high_water_mark_remembers_what_was_freed_until_it_is_reset",
            || {
                drop(touched(96 * MIB));
                let memory = ProcessMemory::read().unwrap();
                let peak = memory.peak_rss_bytes.unwrap();
                assert!(peak >= memory.rss_bytes + 80 * MIB, "{memory:?}");

                if reset_peak() {
                    let peak = ProcessMemory::read().unwrap().peak_rss_bytes.unwrap();
                    assert!(peak < memory.rss_bytes + 20 * MIB);
                }
            },
        );
    }
}
