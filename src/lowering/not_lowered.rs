//! What the exporter marked with a role and the rewriting left as it was.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A part of the decoder that runs as prepared though another form is quicker, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotLowered {
    /// What it is: `experts`, `linear`.
    pub role: String,
    /// The path of the layer or module.
    pub path: String,
    /// Why it stays as it is.
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
