//! What this process' allocator keeps of memory that was freed.

/// Gives memory that was freed back to the system, where the allocator can be told to (glibc's).
///
/// Where ONNX Runtime makes weights of others while a session opens, it frees as much as it keeps, in between what stays, and
/// the allocator would hold that for later: it'd be measured as the model's.
pub fn give_back_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "the standard library has no `malloc_trim`")]
    // SAFETY: it may be called at any time, from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
