//! The variants in which a model is prepared.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A variant in which a model is prepared or exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// The base model without the adapter.
    Base,
    /// The base's graph, over weights that the adapter was merged into.
    Merged,
    /// The base's graph with the adapter's nodes; the adapter's tensors are inputs.
    Unmerged,
    /// A graph that's measured as it was exported, against a base: another program's, or a further
    /// one of this program's.
    Exported,
}

impl Variant {
    /// Those that an adapter is prepared in.
    pub const ALL: [Self; 3] = [Self::Base, Self::Merged, Self::Unmerged];

    /// Its name in folders and results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Merged => "merged",
            Self::Unmerged => "unmerged",
            Self::Exported => "exported",
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
