//! What this process' allocator keeps of memory that was freed.

/// Gives memory that was freed back to the system, where the allocator can be told to (glibc's).
///
/// Opening a session frees as much as it keeps, in between what stays, which the allocator would hold for later: it'd be
/// measured as the model's.
pub fn give_back_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "the standard library has no `malloc_trim`")]
    // SAFETY: it may be called at any time, from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
