//! Returning freed memory to the system.

/// Returns freed memory to the system, if the allocator supports it (glibc's does).
///
/// When ONNX Runtime concatenates weights while it opens a session, it frees as much memory as it
/// keeps. The freed blocks lie between the kept ones; the allocator would hold them, and they'd be
/// measured as the model's memory.
pub fn give_back_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "the standard library has no `malloc_trim`")]
    // SAFETY: `malloc_trim` may be called at any time, from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
