//! How much memory a worker process holds, now and at its peak.
//!
//! Resident memory is split in two, since the two cost differently: **anonymous** memory is this process' own, and
//! **file-backed** memory is the page cache's, shared by all that map the same weights and dropped under pressure.
//! A model with mapped weights has little of the first and much of the second.
//!
//! - this file: one reading, [`ProcessMemory`]
//! - [`MemorySampler`]: the peaks between the stages of a run
//!
//! On Linux the figures come from `/proc/self/status` (`man 5 proc_pid_status`); elsewhere from `sysinfo`, which
//! doesn't know the split or the peak.

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
    /// What is in RAM, anonymous and file-backed (`VmRSS`).
    pub rss_bytes: u64,
    /// The process' own: heap, stacks, weights that were copied (`RssAnon`). Linux only.
    pub anonymous_bytes: Option<u64>,
    /// Pages of mapped files, programs and weights alike, and of shared memory (`RssFile` + `RssShmem`). Linux only.
    pub file_backed_bytes: Option<u64>,
    /// The largest `rss_bytes` since the process began or [`reset_peak`] was called (`VmHWM`). The kernel keeps it,
    /// so it's exact however short the peak was. Linux only.
    pub peak_rss_bytes: Option<u64>,
}

/// Why the memory of this process can't be told.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// The operating system doesn't hand out the file.
    #[error("cannot read `{path}`")]
    Read {
        /// The file.
        path: &'static str,
        /// The reason.
        #[source]
        source: io::Error,
    },

    /// A line is absent from the file, or isn't a number of kB.
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
    /// Reads this process' memory, which takes some tens of µs on Linux.
    ///
    /// # Errors
    /// If the operating system doesn't tell it.
    pub fn read() -> Result<Self, MemoryError> {
        platform::read()
    }
}

/// Makes the present resident size the kernel's high-water mark; says whether that worked.
///
/// It works on Linux, where `/proc/self/clear_refs` can be written; some sandboxes lack it.
pub fn reset_peak() -> bool {
    platform::reset_peak()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const MIB: u64 = 1 << 20;

    /// Runs `test`, whose full name is `name`, in a process that runs nothing else: tests beside it in the same
    /// process allocate too, and would be in its figures.
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

    /// As many bytes, every page of them written.
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
