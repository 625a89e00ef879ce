//! How weights are held in memory.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How weights are held in memory on a CPU. See [`lowering`](super) for what each comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightsMode {
    /// Mapped from files: a copy that's laid out for the processor, made once. Starts at once, and variants share the
    /// page cache.
    Mapped,
    /// The checkpoint alone, mapped: nothing is written, and everything is slower.
    #[serde(rename = "in-place")]
    InPlace,
    /// The same copy, read into memory of the process when a session starts.
    Resident,
}

impl fmt::Display for WeightsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mapped => "mapped",
            Self::InPlace => "in-place",
            Self::Resident => "resident",
        })
    }
}
