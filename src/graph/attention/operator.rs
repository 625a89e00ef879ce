//! Which operator attends over the cache.

use serde::{Deserialize, Serialize};

/// What attention is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttentionOperator {
    /// `GroupQueryAttention` (`com.microsoft`), one node. ONNX Runtime's CUDA provider (1.31) has it in 16 bits only.
    #[default]
    GroupQuery,
    /// ONNX's own `Attention`, over a cache that `TensorScatter` writes into: that provider has both in float32 too.
    Standard,
}

impl AttentionOperator {
    /// The versions of the standard operators and of the file format that such a graph needs.
    pub fn versions(self) -> (i64, i64) {
        match self {
            Self::GroupQuery => (21, 10),
            Self::Standard => (24, 11),
        }
    }
}
