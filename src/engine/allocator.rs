//! Statistics of ONNX Runtime's arena allocator.

use std::ffi::CStr;

use ort::AsPointer;
use ort::memory::Allocator;
use serde::{Deserialize, Serialize};

/// Statistics of an arena, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArenaBytes {
    /// Bytes in use (`InUse`).
    pub in_use: u64,
    /// The largest number of bytes ever in use (`MaxInUse`).
    pub max_in_use: u64,
    /// Bytes allocated from the system or the device (`TotalAllocated`).
    pub reserved: u64,
}

impl ArenaBytes {
    /// The sums of two arenas. `max_in_use` is then an upper bound, since the two maxima may have
    /// occurred at different times.
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            in_use: self.in_use + other.in_use,
            max_in_use: self.max_in_use + other.max_in_use,
            reserved: self.reserved + other.reserved,
        }
    }
}

/// The statistics of `allocator`; `None` if it has none.
#[expect(unsafe_code, reason = "the safe interface has no statistics")]
pub fn arena_bytes(allocator: &Allocator) -> Option<ArenaBytes> {
    let api = ort::api();
    let mut pairs = std::ptr::null_mut();
    // SAFETY: the allocator is alive. On success `pairs` is owned by this function and released
    // after its values are read. On failure the status is released.
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
