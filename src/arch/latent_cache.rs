//! What the cache of latent attention holds.

use serde::{Deserialize, Serialize};

/// What the cache of latent attention holds for each token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LatentCache {
    /// Every head's key and value.
    #[default]
    Expanded,
    /// What keys and values are expanded from: the compressed vector after its norm, and the rotated
    /// key that all heads share.
    Compressed,
}

impl LatentCache {
    /// All choices.
    pub const ALL: [Self; 2] = [Self::Expanded, Self::Compressed];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Expanded => "expanded",
            Self::Compressed => "compressed",
        }
    }
}
