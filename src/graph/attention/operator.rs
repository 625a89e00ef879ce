//! The choice of the attention operator.

use serde::{Deserialize, Serialize};

/// The operator that computes attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttentionOperator {
    /// `GroupQueryAttention` (`com.microsoft`). ONNX Runtime's CUDA provider (1.31) has it for
    /// 16-bit dtypes only.
    #[default]
    GroupQuery,
    /// ONNX's standard `Attention`, over a cache that `TensorScatter` writes to. The CUDA provider
    /// has both for float32 as well.
    Standard,
}

impl AttentionOperator {
    /// The opset version and the IR version that such a graph needs.
    pub fn versions(self) -> (i64, i64) {
        match self {
            Self::GroupQuery => (21, 10),
            Self::Standard => (24, 11),
        }
    }
}
