//! Who takes part in a measurement: the variants of a model, and what is set beside them to judge them by.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::prepared::Variant;

/// One that takes part in a measurement, with a worker process of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// The plain decoder.
    Base,
    /// The same graph over weights that the adapter was folded into.
    Merged,
    /// The decoder with the adapter's nodes.
    Unmerged,
    /// The base once more: what it costs against the base is the machine's own scatter.
    BaseAgain,
    /// The unmerged graph with an adapter of zeros: what its shape alone costs.
    UnmergedEmpty,
}

impl Subject {
    /// Its name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Merged => "merged",
            Self::Unmerged => "unmerged",
            Self::BaseAgain => "base-again",
            Self::UnmergedEmpty => "unmerged-empty",
        }
    }
}

impl From<Variant> for Subject {
    fn from(variant: Variant) -> Self {
        match variant {
            Variant::Base => Self::Base,
            Variant::Merged => Self::Merged,
            Variant::Unmerged => Self::Unmerged,
        }
    }
}

/// The variant that a subject runs.
impl From<Subject> for Variant {
    fn from(subject: Subject) -> Self {
        match subject {
            Subject::Base | Subject::BaseAgain => Self::Base,
            Subject::Merged => Self::Merged,
            Subject::Unmerged | Subject::UnmergedEmpty => Self::Unmerged,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
