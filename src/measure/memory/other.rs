//! macOS, Windows and others: `sysinfo`, which has only the resident size.

use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};

use super::{MemoryError, ProcessMemory};

pub(super) fn read() -> Result<ProcessMemory, MemoryError> {
    let pid = sysinfo::get_current_pid().map_err(|_| MemoryError::Unsupported)?;
    let mut system = System::new().map_err(|_| MemoryError::Unsupported)?;
    system.refresh_processes_specifics(
        ProcessesToUpdate::Some(&[pid]),
        true,
        ProcessRefreshKind::nothing().with_memory(),
    );
    let process = system.process(pid).ok_or(MemoryError::Unsupported)?;
    Ok(ProcessMemory {
        rss_bytes: process.memory(),
        anonymous_bytes: None,
        file_backed_bytes: None,
        peak_rss_bytes: None,
    })
}

pub(super) fn reset_peak() -> bool {
    false
}
