//! The report of nodes that have a role but couldn't be lowered.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A part of the decoder that runs as prepared, though a faster form exists, and the reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotLowered {
    /// The role: `experts` or `linear`.
    pub role: String,
    /// The path of the layer or module.
    pub path: String,
    /// Why it couldn't be lowered.
    pub reason: String,
}

impl fmt::Display for NotLowered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { role, path, reason } = self;
        match role.as_str() {
            "experts" => write!(f, "the experts of `{path}` run node by node: {reason}"),
            _ => write!(f, "`{path}` runs as prepared: {reason}"),
        }
    }
}
