//! The choice of how weights are held in memory.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How weights are held in memory on a CPU. See [`lowering`](super) for the effect of each mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightsMode {
    /// A copy laid out for the processor is written once and mapped. Sessions open fast, and
    /// variants share the page cache.
    Mapped,
    /// The checkpoint's files are mapped. Nothing is written, and inference is slower.
    #[serde(rename = "in-place")]
    InPlace,
    /// The laid-out copy is read into the process's memory when a session is opened.
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
