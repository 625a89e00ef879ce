//! What ONNX Runtime's own allocator has handed out and holds.

use std::ffi::CStr;

use ort::AsPointer;
use ort::memory::Allocator;
use serde::{Deserialize, Serialize};

/// Statistics of an arena, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArenaBytes {
    /// Handed out and not given back (`InUse`).
    pub in_use: u64,
    /// The most that ever was (`MaxInUse`).
    pub max_in_use: u64,
    /// Taken from the system or the device (`TotalAllocated`).
    pub reserved: u64,
}

impl ArenaBytes {
    /// Two arenas together. Their largest uses need not have been at the same time, so that one's sum is a bound.
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            in_use: self.in_use + other.in_use,
            max_in_use: self.max_in_use + other.max_in_use,
            reserved: self.reserved + other.reserved,
        }
    }
}

/// The statistics of `allocator`; `None` of one that keeps none.
#[expect(unsafe_code, reason = "the safe interface has no statistics")]
pub fn arena_bytes(allocator: &Allocator) -> Option<ArenaBytes> {
    let api = ort::api();
    let mut pairs = std::ptr::null_mut();
    // SAFETY: the allocator is alive. On success `pairs` is ours, and released after the values were read; an error's
    // status is released.
    unsafe {
        let status = (api.AllocatorGetStats)(allocator.ptr(), &mut pairs);
        if !status.0.is_null() {
            (api.ReleaseStatus)(status.0);
            return None;
        }
        let number = |key: &CStr| -> Option<u64> {
            let value = (api.GetKeyValue)(pairs, key.as_ptr());
            (!value.is_null()).then(|| CStr::from_ptr(value).to_str().ok()?.parse().ok())?
        };
        let found = || {
            Some(ArenaBytes {
                in_use: number(c"InUse")?,
                max_in_use: number(c"MaxInUse")?,
                reserved: number(c"TotalAllocated")?,
            })
        };
        let found = found();
        (api.ReleaseKeyValuePairs)(pairs);
        found
    }
}
