//! Linux: `/proc/self/status` and `/proc/self/clear_refs`.
//!
//! `smaps_rollup` would also say how much is shared. But it walks all page tables, which takes
//! milliseconds for some GB: too slow to sample during a timed run.

use std::fs;

use super::{MemoryError, ProcessMemory};

const STATUS: &str = "/proc/self/status";

pub(super) fn read() -> Result<ProcessMemory, MemoryError> {
    let status = fs::read_to_string(STATUS).map_err(|source| MemoryError::Read {
        path: STATUS,
        source,
    })?;
    parse(&status)
}

/// Writing 5 resets the peak resident set to the present one (`man 5 proc_pid_clear_refs`).
pub(super) fn reset_peak() -> bool {
    fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Some sandboxes show `VmRSS` only, so the other lines are optional.
fn parse(status: &str) -> Result<ProcessMemory, MemoryError> {
    let bytes = |key| bytes_of(status, key);
    Ok(ProcessMemory {
        rss_bytes: bytes("VmRSS").ok_or(MemoryError::Line {
            path: STATUS,
            key: "VmRSS",
        })?,
        anonymous_bytes: bytes("RssAnon"),
        file_backed_bytes: bytes("RssFile").map(|file| file + bytes("RssShmem").unwrap_or(0)),
        peak_rss_bytes: bytes("VmHWM"),
    })
}

/// The bytes in a line like `VmRSS:      1732 kB`.
fn bytes_of(status: &str, key: &str) -> Option<u64> {
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_figure_is_read_from_its_line() {
        let status = "Name:\tworker\nVmPeak:\t    9000 kB\nVmHWM:\t    1800 kB\nVmRSS:\t    1732 kB\n\
                      RssAnon:\t     116 kB\nRssFile:\t    1600 kB\nRssShmem:\t      16 kB\nThreads:\t1\n";
        assert_eq!(
            parse(status).unwrap(),
            ProcessMemory {
                rss_bytes: 1732 * 1024,
                anonymous_bytes: Some(116 * 1024),
                file_backed_bytes: Some(1616 * 1024),
                peak_rss_bytes: Some(1800 * 1024),
            }
        );
    }

    #[test]
    fn a_kernel_without_the_split_still_tells_the_resident_size() {
        let memory = parse("VmRSS:\t    1732 kB\n").unwrap();
        assert_eq!(memory.rss_bytes, 1732 * 1024);
        assert_eq!(memory.anonymous_bytes, None);
        assert_eq!(memory.peak_rss_bytes, None);
    }

    #[test]
    fn an_absent_or_garbled_size_is_an_error_that_names_the_line() {
        for status in ["VmPeak:\t 1 kB\n", "VmRSS:\tmuch kB\n", "VmRSS:\t 12\n"] {
            let message = parse(status).unwrap_err().to_string();
            assert!(message.contains("`VmRSS`"), "{message}");
        }
    }
}
