//! The subjects of a measurement: a model's variants, and the controls that they're judged against.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::prepared::Variant;

/// What is measured, in its own worker process: a variant or a control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// The decoder without an adapter.
    Base,
    /// The decoder with the adapter folded into its weights.
    Merged,
    /// The decoder with the adapter's nodes, and its tensors as inputs.
    Unmerged,
    /// A folder that's measured against the base: another program's export, or a further one of this
    /// program's.
    Exported,
    /// Control: the base a second time. Its overhead against the base is noise.
    BaseAgain,
    /// Control: the unmerged graph with an adapter of zeros, which shows the cost of the graph
    /// alone.
    UnmergedEmpty,
}

impl Subject {
    /// The name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Merged => "merged",
            Self::Unmerged => "unmerged",
            Self::Exported => "exported",
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
            Variant::Exported => Self::Exported,
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
            Subject::Exported => Self::Exported,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
