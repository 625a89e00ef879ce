//! The variants of a model.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A variant of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// The plain decoder.
    Base,
    /// The same graph over weights that the adapter was folded into.
    Merged,
    /// The decoder with the adapter's nodes; its tensors are inputs.
    Unmerged,
}

impl Variant {
    /// The name of its folder, and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Merged => "merged",
            Self::Unmerged => "unmerged",
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
