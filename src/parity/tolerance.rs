//! How far apart the logits of the same arithmetic may lie, and in which norm.

use serde::{Deserialize, Serialize};

use crate::quantize::{Format, Quantization};
use crate::weights::Dtype;

/// What a difference of logits is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// The largest, over the largest logit.
    #[default]
    Largest,
    /// The root of the mean square, over that of the logits.
    Mean,
}

impl Norm {
    /// Of variants that are quantized otherwise only the mean is alike.
    pub(super) fn of(quantization: Option<Quantization>) -> Self {
        match quantization {
            Some(_) => Self::Mean,
            None => Self::Largest,
        }
    }

    /// What a difference is a part of.
    pub fn of_what(self) -> &'static str {
        match self {
            Self::Largest => "of the largest logit",
            Self::Mean => "in the root mean square",
        }
    }
}

/// How far apart the logits of the same arithmetic may lie, by the [`Norm`] that goes with it. The merged weights
/// of a 16-bit model are rounded once more than the unmerged ones.
///
/// Merged weights are quantized after the merge, and the unmerged adapter stands beside the base's quantized ones: the two
/// are rounded differently, and may differ by what rounding does to a model with random weights. A merge that's wrong by
/// less than that isn't found here: `verify` compares the same variants unquantized for that. Where tokens are `routed`, a
/// small difference sends some to other experts.
pub fn tolerance(dtype: Dtype, quantization: Option<Quantization>, routed: bool) -> f32 {
    let rounded = match dtype {
        Dtype::Float32 => 1e-4,
        Dtype::Float16 => 1e-2,
        Dtype::BFloat16 => 8e-2,
    };
    let requantized = quantization.map_or(0.0, |quantization| match quantization.weights {
        Format::Int8 if routed => 3e-1,
        Format::Int8 => 1e-1,
        Format::Int4 | Format::Nf4 if routed => 1.0,
        Format::Int4 | Format::Nf4 => 7.5e-1,
    });
    f32::max(rounded, requantized)
}
