//! How much the logits of two variants may differ, and in which norm.

use serde::{Deserialize, Serialize};

use crate::quantize::Quantization;
use crate::weights::Dtype;

/// The norm in which logits are compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// The largest difference, divided by the largest logit.
    #[default]
    Largest,
    /// The root mean square of the differences, divided by that of the logits.
    Mean,
}

impl Norm {
    /// Merged and unmerged weights are quantized differently, so that single logits may differ
    /// much; only their mean is comparable.
    pub(super) fn of(quantization: Option<Quantization>) -> Self {
        match quantization {
            Some(_) => Self::Mean,
            None => Self::Largest,
        }
    }

    /// Names the reference of a difference, for messages.
    pub fn of_what(self) -> &'static str {
        match self {
            Self::Largest => "of the largest logit",
            Self::Mean => "in the root mean square",
        }
    }
}

/// The largest allowed difference between merged and unmerged logits, in the norm [`Norm::of`]. In
/// 16 bits, merged weights are rounded once more than unmerged ones.
///
/// With quantization, merged weights are quantized after the merge, and an unmerged adapter is
/// applied to the quantized base weights. The two are rounded differently, so the tolerance is the
/// effect of rounding on a model with random weights. A merge that's wrong by less isn't found
/// here; `verify` therefore compares the unquantized variants, too. If tokens are `routed`, a small
/// difference may send some to other experts.
pub fn tolerance(dtype: Dtype, quantization: Option<Quantization>, routed: bool) -> f32 {
    let rounded = match dtype {
        Dtype::Float32 => 1e-4,
        Dtype::Float16 => 1e-2,
        Dtype::BFloat16 => 8e-2,
    };
    let requantized = quantization.map_or(0.0, |quantization| {
        let tolerance = quantization.weights.tolerance();
        if routed {
            tolerance.routed
        } else {
            tolerance.dense
        }
    });
    f32::max(rounded, requantized)
}
